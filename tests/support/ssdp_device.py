"""A device on loopback for `fanout ssdp search`, and a clock for the search, by which nobody is late."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import socket
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fanout.ssdp.core import message
from fanout.ssdp.core.message import Advert, Headers, Search
from tests.support.cli import Run
from tests.support.needs import unavailable
from tests.support.waiting import PATIENCE, give_turns, until_async

UDN = "uuid:00000001-aaaa-bbbb-cccc-000000000000"
MEDIA_SERVER = "urn:schemas-upnp-org:device:MediaServer:1"
SEARCHES = 3
"""A search is sent so often."""


def describe(name: str, udn: str = UDN) -> bytes:
    return (
        f"<root><device><deviceType>{MEDIA_SERVER}</deviceType><friendlyName>{name}</friendlyName>"
        f"<UDN>{udn}</UDN></device></root>"
    ).encode()


def names(run: Run) -> list[str | None]:
    return [each["friendly_name"] for each in run.json["devices"]]


class Device:
    """A host that answers searches as it is told, and serves descriptions."""

    def __init__(self) -> None:
        self._udp = _bind()
        self.host: str = self._udp.getsockname()[0]
        self.searches: list[Search] = []
        self.requests: list[str] = []
        self.sent = 0
        """Answers."""
        self.held = 0
        """Requests that get no answer before the device is closed."""
        self.serve: Callable[[BaseHTTPRequestHandler], None] = lambda request: reply(request, describe("server1"))
        self._closed = threading.Event()
        device = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                device.requests.append(self.path)
                with contextlib.suppress(OSError):  # who asked has gone
                    device.serve(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

        self._web = ThreadingHTTPServer((self.host, 0), Handler)
        self._web.daemon_threads = False
        self.port = self._web.server_address[1]
        self.location = f"http://{self.host}:{self.port}/rootDesc.xml"
        self.answers: Iterable[bytes] = [self.answer()]
        self._threads = [threading.Thread(target=work) for work in (self._serve, self._listen)]
        for thread in self._threads:
            thread.start()

    def answer(self, nt: str = message.ROOT_DEVICE, location: str | None = None, udn: str = UDN) -> bytes:
        where = self.location if location is None else location
        usn = udn if nt == udn else f"{udn}::{nt}"
        return message.answer(Advert(nt, usn, where, headers=Headers([("SERVER", "a server")])), nt)

    def hold(self, request: BaseHTTPRequestHandler) -> None:
        """Begin an answer, and leave it at that."""
        request.send_response(200)
        request.end_headers()
        request.wfile.write(b" ")
        self.held += 1
        self._closed.wait()

    def _serve(self) -> None:
        self._web.serve_forever(poll_interval=0.01)

    def _listen(self) -> None:
        while True:
            data, address = self._udp.recvfrom(65_535)
            if not data:
                return
            found = message.parse(data)
            assert isinstance(found, Search)
            for answer in self.answers:
                if self._closed.is_set():
                    break
                self._udp.sendto(answer, address)
                self.sent += 1
            self.searches.append(found)

    def close(self) -> None:
        self._closed.set()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closing:
            closing.sendto(b"", (self.host, message.PORT))
        self._web.shutdown()
        for thread in self._threads:
            thread.join()
        self._web.server_close()
        self._udp.close()


def _bind() -> socket.socket:
    """Return a socket on port 1900 of an address of loopback that nobody else has."""
    for _ in range(100):
        host = f"127.{2 + secrets.randbelow(250)}.{secrets.randbelow(250)}.{2 + secrets.randbelow(250)}"
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            opened.bind((host, message.PORT))
        except OSError as error:
            opened.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return opened
    return unavailable("tools", f"another program has UDP port {message.PORT} of all addresses")


def reply(request: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


class Clock:
    """The asyncio of `fanout.ssdp.control_point` for a test: its time is over when the device has done its part.

    By then the search has read what the device has sent. Descriptions are waited for until those alone are missing
    that the device holds.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.is_over: Callable[[], bool] = lambda: len(device.searches) == SEARCHES
        self.limits: list[float] = []
        """How long descriptions were to be waited for."""
        self.sleep = self._pause
        self._pauses = self._sent = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def _pause(self, seconds: float) -> None:
        """Do at once what is waited for before each time that the search is sent; wait for what ends it."""
        assert seconds < PATIENCE
        device = self._device
        self._pauses += 1
        if self._pauses % (SEARCHES + 1) == 1:
            self._sent = device.sent
        elif self._pauses % (SEARCHES + 1) == 0:
            await until_async(self.is_over, lambda: f"{device.searches} came, {device.sent} answers were sent")
            # One datagram is read a turn.
            await give_turns(device.sent - self._sent + 10)

    async def wait(self, tasks: list[asyncio.Task[Any]], timeout: float) -> None:
        """Wait for the descriptions."""
        self.limits.append(timeout)
        await until_async(lambda: sum(not task.done() for task in tasks) <= self._device.held, "descriptions are read")
