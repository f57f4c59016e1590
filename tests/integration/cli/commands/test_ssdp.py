"""`fanout ssdp search`: devices on loopback addresses of their own."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from fanout.ssdp import control_point as looking
from fanout.ssdp import pod_monitor
from fanout.ssdp.core import message
from fanout.ssdp.core.description import SIZE_MAX
from fanout.ssdp.core.message import Advert
from tests.support.cli import Run, environment, fanout, invoke, running
from tests.support.ssdp_device import MEDIA_SERVER, SEARCHES, UDN, Clock, Device, describe, names, reply
from tests.support.terminal import on_screen, shown, terminal
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    with contextlib.closing(made):
        yield made


@pytest.fixture(autouse=True)
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Clock | None:
    """The time of searches in this process."""
    if "device" not in request.fixturenames:
        return None
    made = Clock(request.getfixturevalue("device"))
    monkeypatch.setattr(looking, "asyncio", made)
    monkeypatch.setattr(pod_monitor, "READ_TIMEOUT", PATIENCE)
    return made


def search(device: Device, *arguments: str, **variables: str) -> Run:
    return invoke("ssdp", "search", "--host", device.host, "--timeout", "1", *arguments, **variables)


def test_a_device_is_listed(device: Device) -> None:
    runs: list[Run] = []

    def look() -> bool:
        # A process has a time of its own: it may be over before the device has answered.
        runs.append(fanout("ssdp", "search", "--host", device.host, "--timeout", "1"))
        return "server1" in runs[-1].out

    until(look, lambda: runs[-1])
    run = runs[-1]
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
    assert len(device.searches) == SEARCHES
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
        message.notify(message.NotifyKind.ALIVE, Advert("a", "uuid:1::a", device.location)),
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
]


def test_devices_whose_descriptions_cannot_be_read_are_listed_without_a_name(device: Device, clock: Clock) -> None:
    poor = [*POOR, device.hold]

    def serve(request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/poor/"):
            poor[int(request.path.removeprefix("/poor/"))](request)
        else:
            reply(request, describe("elsewhere"))

    device.serve = serve
    paths = {f"/poor/{number}" for number in range(len(poor))}
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
    assert (device.held, clock.limits) == (1, [looking._READ_TIME]), "the one that is slow is not waited for longer"


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
    lines = search(device).out.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)

    def look() -> str:
        # A process has a time of its own: it may be over before the device has answered.
        with terminal("ssdp", "search", "--host", device.host, "--timeout", "1") as opened:
            assert opened.end() in (0, 3)
            text = "\n".join(opened.lines)
            return text if "evil" in text and "2 devices found" in text else ""

    text = until(look, "both are listed")
    assert "[red]x[/red]" in text
    assert not re.search("[\u202e\u009b\u200b]", text)


def test_the_table_of_a_terminal(device: Device) -> None:
    long = "a name that goes on and on and on and on and on and on"
    device.serve = lambda request: reply(request, describe("server1" if "root" in request.path else long))
    device.answers = [device.answer(), device.answer(location=f"http://{device.host}:{device.port}/2", udn="uuid:2")]

    def lines(columns: int) -> list[str]:
        device.searches.clear()
        code, printed = on_screen("ssdp", "search", "--host", device.host, "--timeout", "1", columns=columns)
        assert (code, f"searching at {device.host}" in printed) == (0, True)
        return [line.strip() for line in shown(printed.encode()) if line.strip()]

    head, _, one, two, count = lines(140)
    assert head.split() == ["NAME", "LOCATION", "TYPE", "FROM"]
    assert two.split() == ["server1", device.location, "MediaServer:1", device.host]
    assert one.startswith(long[:30])
    assert count == "2 devices found"
    head, *_ = lines(70)
    assert head.split() == ["NAME", "LOCATION"]
    whole = "".join(line[-31:].strip() for line in lines(60))
    assert device.location in whole


def test_a_flood_of_answers_ends_with_the_time(device: Device, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flood goes on when the time is over."""
    monkeypatch.setattr(looking, "LOCATIONS_MAX", 50)
    device.answers = (device.answer(location=f"http://{device.host}:1/{number}") for number in itertools.count())
    clock.is_over = lambda: device.sent > 1000
    run = search(device, "-o", "json")
    assert run.code == 0
    assert len(run.json["devices"]) == 50


def test_an_interrupt_ends_it_at_once(device: Device, tmp_path: Path) -> None:
    device.serve = device.hold
    with running(tmp_path, "ssdp", "search", "--host", device.host, "--timeout", "120") as run:
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
        assert "give an IP address, or a name in DNS" in invoke(
            "ssdp", "search", "--host", host, "--timeout", "1"
        ).assert_one_sentence(2)
    for target in ("", "two words", "é", "a\x1b", "a" * 600):
        run = invoke("ssdp", "search", "--st", target, "--host", "127.0.0.1", "--timeout", "1")
        said = "the search target must be ssdp:all, upnp:rootdevice, uuid:... or urn:...; got "
        assert said in run.assert_one_sentence(2)
        assert run.err.rstrip("\n").isprintable()
    for timeout in ("0", "0.5", "-1", "nan", "inf", "121", "x"):
        invoke("ssdp", "search", "--timeout", timeout).assert_one_sentence(2)
    failed = invoke("ssdp", "search", "--interface", "nonsense0", "-o", "json")
    assert (failed.code, failed.json["exit_code"]) == (2, 2)


def test_what_the_environment_says_gives_way_to_the_command_line(device: Device, clock: Clock) -> None:
    arguments = ("ssdp", "search", "--timeout", "1", "-o", "json")
    assert names(invoke(*arguments, FANOUT_SSDP_HOST=device.host)) == ["server1"]
    device.searches.clear()
    both = invoke(*arguments, "--host", device.host, FANOUT_INTERFACE="nonsense0")
    assert names(both) == ["server1"]
    device.searches.clear()
    clock.is_over = lambda: True
    assert invoke(*arguments, "--interface", "lo", FANOUT_SSDP_HOST=device.host).code == 3
    assert device.searches == []
    # Where a receiver listens is not who is asked.
    assert "nonsense0" in invoke(*arguments, FANOUT_HOST=device.host, FANOUT_INTERFACE="nonsense0").err


@pytest.mark.parametrize("package", ["aiohttp", "defusedxml"])
def test_without_the_extra(package: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; from fanout.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", program, "ssdp", "search"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"fanout: this needs the package {package}: pip install {package}\n"
