"""`fanout ssdp search`: devices on loopback addresses of their own, and minidlnad on a LAN."""

from __future__ import annotations

import contextlib
import gzip
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fanout.ssdp import message
from fanout.ssdp import search as looking
from fanout.ssdp.description import SIZE_MAX
from fanout.ssdp.message import Advert, Headers, Search
from tests.support.cli import Run, environment, fanout, invoke, running
from tests.support.terminal import Terminal, terminal
from tests.support.waiting import until

UDN = "uuid:00000001-aaaa-bbbb-cccc-000000000000"
MEDIA_SERVER = "urn:schemas-upnp-org:device:MediaServer:1"
LATE = 8.0
"""Seconds in which a search of one second has ended, whatever the devices do: descriptions have three."""


def describe(name: str, udn: str = UDN) -> bytes:
    return (
        f"<root><device><deviceType>{MEDIA_SERVER}</deviceType><friendlyName>{name}</friendlyName>"
        f"<UDN>{udn}</UDN></device></root>"
    ).encode()


class Device:
    """A host that answers searches as it is told, and serves descriptions."""

    def __init__(self) -> None:
        self.host = f"127.{2 + secrets.randbelow(250)}.{secrets.randbelow(250)}.{2 + secrets.randbelow(250)}"
        self.searches: list[Search] = []
        self.requests: list[str] = []
        self.answers: list[bytes] = []
        self.serve: Callable[[BaseHTTPRequestHandler], None] = lambda request: reply(request, describe("server1"))
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
        self.answers = [self.answer()]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((self.host, message.PORT))
        self._threads = [threading.Thread(target=work) for work in (self._serve, self._listen)]
        for thread in self._threads:
            thread.start()

    def answer(self, nt: str = message.ROOT_DEVICE, location: str | None = None, udn: str = UDN) -> bytes:
        where = self.location if location is None else location
        usn = udn if nt == udn else f"{udn}::{nt}"
        return message.answer(Advert(nt, usn, where, headers=Headers([("SERVER", "a server")])), nt)

    def _serve(self) -> None:
        self._web.serve_forever(poll_interval=0.01)

    def _listen(self) -> None:
        while True:
            data, address = self._udp.recvfrom(65_535)
            if not data:
                return
            found = message.parse(data)
            assert isinstance(found, Search)
            self.searches.append(found)
            for answer in self.answers:
                self._udp.sendto(answer, address)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closing:
            closing.sendto(b"", (self.host, message.PORT))
        self._web.shutdown()
        for thread in self._threads:
            thread.join()
        self._web.server_close()
        self._udp.close()


def reply(request: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    with contextlib.closing(made):
        yield made


def search(device: Device, *arguments: str, run: Callable[..., Run] = invoke) -> Run:
    started = time.monotonic()
    done = run("ssdp", "search", "--host", device.host, "--timeout", "1", *arguments)
    assert time.monotonic() - started < LATE
    return done


def names(run: Run) -> list[str | None]:
    return [each["friendly_name"] for each in run.json["devices"]]


def test_a_device_is_listed(device: Device) -> None:
    run = search(device, run=fanout)
    assert (run.code, run.err) == (0, "1 device found\n")
    head, line = run.out.splitlines()
    assert head.split() == ["LOCATION", "TYPE", "FROM", "NAME"]
    assert line.split() == [device.location, "MediaServer:1", device.host, "server1"]
    assert head.index("NAME") == line.index("server1")


def test_it_is_asked_as_a_control_point_asks(device: Device) -> None:
    assert search(device, "--st", MEDIA_SERVER).code == 0
    assert {each.target for each in device.searches} == {MEDIA_SERVER}
    assert {each.mx for each in device.searches} == {1}
    # More than once, for UDP loses.
    assert len(device.searches) == 3
    headers = device.searches[0].headers
    assert headers.get("HOST") == "239.255.255.250:1900"
    assert "fanout/" in (headers.get("USER-AGENT") or "")
    assert device.requests == ["/rootDesc.xml"]


def test_json(device: Device) -> None:
    run = search(device, "-o", "json")
    assert (run.code, run.err) == (0, "1 device found\n")
    assert run.json == {
        "target": "ssdp:all",
        "devices": [
            {
                "friendly_name": "server1",
                "location": device.location,
                "udn": UDN,
                "device_type": MEDIA_SERVER,
                "server": "a server",
                "host": device.host,
            }
        ],
    }


def test_nobody_answers(device: Device) -> None:
    device.answers = []
    run = search(device)
    assert run.out == ""
    assert f"no device answered at {device.host} within 1 s" in run.assert_one_sentence(3)


def test_a_device_is_listed_once_however_often_it_answers(device: Device) -> None:
    other = "uuid:2"
    inner = f"<deviceList><device><UDN>{other}</UDN></device></deviceList></device>"
    device.serve = lambda request: reply(request, describe("server1").replace(b"</device>", inner.encode()))
    device.answers = [
        device.answer("urn:schemas-upnp-org:service:ContentDirectory:1", udn=other),
        device.answer(other, udn=other),
        device.answer(UDN.upper(), udn=UDN.upper()),
        *(device.answer(nt) for nt in (message.ROOT_DEVICE, UDN, MEDIA_SERVER)),
    ]
    run = search(device, "-o", "json")
    assert [each["udn"] for each in run.json["devices"]] == [UDN]
    assert len(device.requests) == 1


def test_several_devices_of_one_host_in_the_order_of_their_names(device: Device) -> None:
    def serve(request: BaseHTTPRequestHandler) -> None:
        body = describe(f"server{request.path[1:]}")
        if request.path == "/2":  # one that is packed, though nobody asked for that
            reply(request, gzip.compress(body), Content_Encoding="gzip")
        else:
            reply(request, body)

    device.serve = serve
    root = device.location.removesuffix("rootDesc.xml")
    device.answers = [device.answer(location=f"{root}{number}", udn=f"uuid:{number}") for number in (3, 1, 2)]
    run = search(device, "-o", "json")
    assert names(run) == ["server1", "server2", "server3"]
    assert run.err == "3 devices found\n"


def test_what_strangers_send_is_no_device(device: Device) -> None:
    device.answers = [
        b"",
        b"\xff" * 100,
        b"HTTP/1.1 404 Not Found\r\n\r\n",
        message.search("ssdp:all", 1),
        message.notify(message.Kind.ALIVE, Advert("a", "uuid:1::a", device.location)),
        device.answer() + bytes(65_000 - 500),
    ]
    run = search(device, "-o", "json")
    assert (run.code, run.json) == (3, {"target": "ssdp:all", "devices": []})
    assert device.requests == []


def endless(request: BaseHTTPRequestHandler) -> None:
    """A "description" of a gibibyte."""
    request.send_response(200)
    request.send_header("Content-Length", str(1 << 30))
    request.end_headers()
    for _ in range(1024):
        request.wfile.write(bytes(1 << 20))


def write(written: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def serve(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(written)

    return serve


def slow(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b" ")
        time.sleep(0.1)


POOR: list[Callable[[BaseHTTPRequestHandler], None]] = [
    lambda request: reply(request, b"", 404),
    lambda request: reply(request, describe("evil"), 500),
    lambda request: reply(request, b"", 302, Location="/elsewhere"),
    lambda request: reply(request, b"<html><body></html>"),
    lambda request: reply(request, b"<root><device/></root>"),
    lambda request: reply(request, describe("server1"), Content_Encoding="gzip"),
    lambda request: reply(request, describe("server1") + b" " * SIZE_MAX),
    lambda request: request.connection.close(),
    write(b"no HTTP\r\n\r\n"),
    write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + describe("cut")),
    endless,
    slow,
]


def test_devices_whose_descriptions_cannot_be_read_are_listed_without_a_name(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "_READ_SECONDS", 1.0)

    def serve(request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/poor/"):
            POOR[int(request.path.removeprefix("/poor/"))](request)
        else:
            reply(request, describe("elsewhere"))

    device.serve = serve
    paths = {f"/poor/{number}" for number in range(len(POOR))}
    locations = [device.location.replace("/rootDesc.xml", path) for path in paths]
    device.answers = [
        device.answer(kind, location, f"uuid:{location[-1]}")
        for location in locations
        for kind in (MEDIA_SERVER, message.ROOT_DEVICE)
    ]
    run = search(device, "-o", "json")
    found = {each["location"]: each for each in run.json["devices"]}
    assert found.keys() == set(locations)
    for location, each in found.items():
        expected = (None, f"uuid:{location[-1]}", MEDIA_SERVER)
        assert (each["friendly_name"], each["udn"], each["device_type"]) == expected
    assert set(device.requests) == paths


def test_only_addresses_are_asked_for_a_description(device: Device) -> None:
    locations = [
        f"http://localhost:{device.port}/name",
        f"http://a@{device.host}:{device.port}/user",
        f"https://{device.host}:{device.port}/tls",
        "http://[::1",
        "nonsense",
        f"file:///etc/passwd?{device.host}",
    ]
    device.answers = [device.answer(location=location) for location in locations]
    out = search(device).out
    assert {line.split()[0] for line in out.splitlines()[1:]} == set(locations)
    assert out.count("(its description cannot be read)") == len(locations)
    assert device.requests == []


def test_what_strangers_say_is_safe_for_a_terminal(device: Device) -> None:
    device.serve = lambda request: reply(request, describe("\u202eevil \u009b2J [red]x[/red] \U0001f3b5"))
    odd = device.answer(location=f"{device.location}?\u202e\u200b a b", udn="uuid:2")
    device.answers = [device.answer(), odd]
    with terminal("ssdp", "search", "--host", device.host, "--timeout", "1") as shown:
        lines = search(device).out.splitlines()
        assert len(lines) == 3
        assert all(line.isprintable() for line in lines)
        assert shown.process.wait(timeout=LATE) == 0
        until(lambda: b"found" in shown.printed, "the terminal has it all")
        text = "\n".join(shown.lines)
    assert "[red]x[/red]" in text
    assert not re.search("[\u202e\u009b\u200b]", text)


def test_the_table_of_a_terminal(device: Device) -> None:
    long = "a name that goes on and on and on and on and on and on"
    device.serve = lambda request: reply(request, describe("server1" if "root" in request.path else long))
    device.answers = [device.answer(), device.answer(location=f"http://{device.host}:{device.port}/2", udn="uuid:2")]

    def shown(opened: Terminal) -> list[str]:
        assert opened.process.wait(timeout=LATE) == 0
        until(lambda: b"found" in opened.printed, "the terminal has it all")
        assert "searching at" in opened.printed.decode()
        return [line.strip() for line in opened.lines if line.strip()]

    with contextlib.ExitStack() as stack:
        wide, narrow, narrowest = (
            stack.enter_context(terminal("ssdp", "search", "--host", device.host, "--timeout", "1", size=(30, columns)))
            for columns in (140, 70, 60)
        )
        lines = [shown(opened) for opened in (wide, narrow, narrowest)]
    head, _, one, two, count = lines[0]
    assert head.split() == ["NAME", "LOCATION", "TYPE", "FROM"]
    assert two.split() == ["server1", device.location, "MediaServer:1", device.host]
    assert one.startswith(long[:30])
    assert count == "2 devices found"
    head, *_ = lines[1]
    assert head.split() == ["NAME", "LOCATION"]
    whole = "".join(line[-31:].strip() for line in lines[2])
    assert device.location in whole


def test_a_flood_of_answers_ends_with_the_time(device: Device) -> None:
    device.answers = [device.answer(location=f"http://{device.host}:1/{number}") for number in range(3000)]
    run = search(device, "-o", "json", run=fanout)
    assert run.code == 0
    assert 1 <= len(run.json["devices"]) <= 1024


def test_an_interrupt_ends_it_at_once(device: Device, tmp_path: Path) -> None:
    device.serve = slow
    with running(tmp_path, "ssdp", "search", "--host", device.host, "--timeout", "60") as run:
        run.wait_until(lambda: device.requests)
        done = run.stop(signal.SIGINT)
    assert (done.code, done.out, done.err.strip()) == (130, "", "")


def test_usage() -> None:
    said = invoke("ssdp", "search", "--interface", "nonsense0").assert_one_sentence(2)
    assert "no interface 'nonsense0': there are " in said
    assert re.search(r"\blo\b", said)
    both = invoke("ssdp", "search", "--interface", "lo", "--host", "127.0.0.1")
    assert "one of --interface and --host" in both.assert_one_sentence(2)
    for host in ("", "not a host", "a" * 70 + ".example", "127.0.0.1:1900"):
        assert "no address" in invoke("ssdp", "search", "--host", host, "--timeout", "1").assert_one_sentence(2)
    for target in ("", "two words", "é", "a\x1b", "a" * 600):
        run = invoke("ssdp", "search", "--st", target, "--host", "127.0.0.1", "--timeout", "1")
        assert "nothing to search for" in run.assert_one_sentence(2)
        assert run.err.rstrip("\n").isprintable()
    for timeout in ("0", "0.5", "-1", "nan", "inf", "121", "x"):
        invoke("ssdp", "search", "--timeout", timeout).assert_one_sentence(2)
    failed = invoke("ssdp", "search", "--interface", "nonsense0", "-o", "json")
    assert (failed.code, failed.json["exit_code"]) == (2, 2)


def test_what_the_environment_says_gives_way_to_the_command_line(device: Device) -> None:
    arguments = ("ssdp", "search", "--timeout", "1", "-o", "json")
    with ThreadPoolExecutor() as pool:
        of_environment = pool.submit(fanout, *arguments, FANOUT_SSDP_HOST=device.host)
        of_both = pool.submit(fanout, *arguments, "--host", device.host, FANOUT_INTERFACE="nonsense0")
        elsewhere = pool.submit(fanout, *arguments, "--interface", "lo", FANOUT_SSDP_HOST=device.host)
    assert names(of_environment.result()) == names(of_both.result()) == ["server1"]
    assert elsewhere.result().code == 3
    # Where a receiver listens is not who is asked.
    assert "nonsense0" in invoke(*arguments, FANOUT_HOST=device.host, FANOUT_INTERFACE="nonsense0").err


@pytest.mark.parametrize("package", ["aiohttp", "defusedxml"])
def test_without_the_extra(package: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; from fanout.cli import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", program, "ssdp", "search"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"fanout: this needs the package {package}: pip install 'fanout[dlna]'\n"
