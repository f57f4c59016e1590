"""A scripted media server in a pod, which may misbehave: threads of the test's process."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from tests.support.lan import Host
from tests.support.waiting import until
from tests.system.ssdp import ssdp

PORT, OTHER_PORT = 8895, 8896
Handler = http.server.BaseHTTPRequestHandler
Act = Callable[[Handler], None]
_XML = {"Content-Type": 'text/xml; charset="utf-8"'}

_DESCRIPTION = """<?xml version="1.0" encoding="utf-8"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>
<device><deviceType>{device_type}</deviceType><friendlyName>{name}</friendlyName><manufacturer>test</manufacturer>
<modelName>test</modelName><UDN>{udn}</UDN><presentationURL>{origin}/</presentationURL>
<serviceList><service><serviceType>{service}</serviceType><serviceId>urn:upnp-org:serviceId:ContentDirectory</serviceId>
<SCPDURL>{origin}/scpd.xml</SCPDURL><controlURL>/control</controlURL><eventSubURL>/event</eventSubURL></service>
</serviceList></device></root>"""


class ScriptedDevice:
    """Answers searches by unicast with `location`, and serves `pages`; what it was asked is in `requests`."""

    def __init__(
        self,
        pod: Host,
        udn: str,
        *,
        name: str = "Test device",
        location: str | None = None,
        pages: Mapping[str, bytes | Act] | None = None,
        ports: tuple[int, ...] = (PORT,),
        address: str | None = None,
    ) -> None:
        self.pod, self.udn, self.name = pod, udn, name
        self.origin = f"http://{address or pod.pod_ip}:{ports[0]}"
        self.location = location or f"{self.origin}/description.xml"
        self.pages: dict[str, bytes | Act] = {"/description.xml": self.description(), **(pages or {})}
        self.requests: list[str] = []
        """`METHOD path` of each request."""
        self.searches: Counter[str] = Counter()
        """Searches that have come, by target."""
        self._stack = contextlib.ExitStack()
        try:
            self._answer()
            for port in ports:
                self._serve(port)
        except BaseException:
            self._stack.close()
            raise

    def description(self, origin: str | None = None) -> bytes:
        """Return a device description whose URLs are of that origin."""
        origin = self.origin if origin is None else origin
        values = {"device_type": ssdp.MEDIA_SERVER, "service": ssdp.CONTENT_DIRECTORY}
        return _DESCRIPTION.format(name=self.name, udn=self.udn, origin=origin, **values).encode()

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def announce(self, nts: str, destination: tuple[str, int] = ssdp.EVERYBODY, nt: str = ssdp.ROOT_DEVICE) -> None:
        """Send a NOTIFY."""
        self._searched.sendto(
            "\r\n".join(
                (
                    "NOTIFY * HTTP/1.1",
                    f"HOST: {ssdp.GROUP}:{ssdp.PORT}",
                    "CACHE-CONTROL: max-age=1800",
                    f"LOCATION: {self.location}",
                    f"NT: {nt}",
                    f"NTS: {nts}",
                    "SERVER: test/1 UPnP/1.1 test/1",
                    f"USN: {self.udn}::{nt}",
                    "BOOTID.UPNP.ORG: 1",
                    "NEXTBOOTID.UPNP.ORG: 2",
                    "CONFIGID.UPNP.ORG: 1",
                    "",
                    "",
                )
            ).encode(),
            destination,
        )

    def _answer(self) -> None:
        self._searched = self.pod.listen("0.0.0.0", ssdp.PORT)
        self._searched.settimeout(None)
        thread = threading.Thread(target=self._take_searches, name=f"device-{self.pod.number}-ssdp")
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(_shut, self._searched)

    def _take_searches(self) -> None:
        with contextlib.suppress(OSError):
            while asked := self._searched.recvfrom(65_535):
                data, client = asked
                if not data:
                    return
                target = ssdp.read(data, client).target
                self.searches[target] += 1
                for found in self.targets():
                    if target in (ssdp.ALL, found):
                        self._searched.sendto(self.answer(found), client)

    def targets(self) -> tuple[str, ...]:
        return (ssdp.ROOT_DEVICE, self.udn, ssdp.MEDIA_SERVER, ssdp.CONTENT_DIRECTORY)

    def answer(self, target: str) -> bytes:
        """Return what it answers to a search for that."""
        lines = (
            "HTTP/1.1 200 OK",
            "CACHE-CONTROL: max-age=1800",
            "EXT:",
            f"LOCATION: {self.location}",
            "SERVER: test/1 UPnP/1.1 test/1",
            f"ST: {target}",
            f"USN: {self.udn if target == self.udn else f'{self.udn}::{target}'}",
        )
        return "\r\n".join((*lines, "", "")).encode()

    def _serve(self, port: int) -> None:
        device = self

        class Answering(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _act(self) -> None:
                device.requests.append(f"{self.command} {self.path}")
                page = device.pages.get(self.path.partition("?")[0])
                if page is None:
                    self.send_error(404)
                elif callable(page):
                    page(self)
                else:
                    say(self, page)

            do_GET = do_HEAD = do_POST = do_SUBSCRIBE = do_UNSUBSCRIBE = _act  # noqa: N815 - http.server's names

            def log_message(self, *arguments: Any) -> None: ...

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients may vanish."""

        listening = self.pod.tcp()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("0.0.0.0", port))
        listening.listen(64)
        listening.settimeout(None)
        server = Server(("0.0.0.0", port), Answering, bind_and_activate=False)
        server.socket.close()
        server.socket = listening
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name=f"device-{self.pod.number}-http")
        thread.start()
        self._stack.callback(server.server_close)
        self._stack.callback(thread.join)
        self._stack.callback(server.shutdown)


def _shut(listening: socket.socket) -> None:
    """Wake the thread that waits at a UDP socket, and close it."""
    with contextlib.suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def say(handler: Handler, body: bytes, headers: Mapping[str, str] | None = None, *, status: int = 200) -> None:
    """Answer with a whole body."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in {**_XML, **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def say_in_chunks(handler: Handler, chunks: Iterator[bytes], headers: Mapping[str, str] | None = None) -> None:
    """Answer with chunks, however many there are."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    for name, value in {**_XML, **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    for chunk in chunks:
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
    handler.wfile.write(b"0\r\n\r\n")


def wait_for_request(device: ScriptedDevice, request: str) -> None:
    until(lambda: request in device.requests, f"{device.name} is asked for {request}")
