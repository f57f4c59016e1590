"""The app of `fanout relay ssdp` as a process: its log, its admin port, its table, its end."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.cli import FANOUT, Running, fanout
from tests.support.lan import Host
from tests.support.namespace import why_no_namespace
from tests.support.needs import unavailable
from tests.support.ports import free_port
from tests.support.terminal import terminal

SCRIPTED = """
import signal, sys, threading, time
import fanout_relay.ssdp
from fanout.cli import run
from fanout.errors import SocketUnavailable
from fanout.ssdp.reasons import HttpFailure, SsdpDrop
from fanout.ssdp.stats import DeviceStats, HttpCounts, SsdpStats

class Scripted:
    waiting, silence = None, 0.0

    def __init__(self, service, interface, **settings):
        assert (service, interface, settings["http_ports"]) == ("media", "eth0", "1-2")
        self._stopped = threading.Event()
        self._looks = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def serve(self):
        self._stopped.wait()

    def stop(self):
        self._stopped.set()

    @property
    def stats(self):
        return SsdpStats()

{script}

fanout_relay.ssdp.SsdpRelay = Scripted
run()
"""


@contextmanager
def scripted(folder: Path, script: str = "", *arguments: str) -> Iterator[Running]:
    """Run the app with a relay that does what is written here."""
    body = SCRIPTED.format(script="\n".join(f"    {line}" for line in script.splitlines()))
    needed = ("relay", "ssdp", "-s", "media", "--interface", "eth0", "--http-ports", "1-2")
    admin = ("--admin-host", "127.0.0.1", "--admin-port", str(free_port()))
    with ending(Running((*needed, *admin, *arguments), folder, {}, None, program=[sys.executable, "-c", body])) as run:
        yield run


@contextmanager
def ending(run: Running) -> Iterator[Running]:
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()


def get(relay: Running, path: str) -> tuple[int, str]:
    url = f"http://{relay.events('ssdp_relay_started')[0]['admin']}{path}"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def started(relay: Running) -> Running:
    relay.wait_until(lambda: "ssdp_relay_started" in relay.out)
    return relay


def test_drops_and_failures_are_logged_by_reason_and_added_up_at_the_end(tmp_path: Path) -> None:
    growing = """
@property
def stats(self):
    self._looks += 1
    n = self._looks
    failures = {HttpFailure.CLIENT_GONE: n, HttpFailure.NO_POD: 2 * max(0, n - 3)}
    http = HttpCounts({1: n}, {1: 100 * n}, {2: n, 5: n}, failures, n, n, n)
    return SsdpStats([], n, 2 * n, 0, {"ssdp:alive": n}, n, {SsdpDrop.NOT_SSDP: 3 * n, SsdpDrop.NO_MX: 0}, http)
"""
    with scripted(tmp_path, growing) as relay:
        relay.wait_until(lambda: len(relay.events("http_failures")) > 3)
        run = relay.stop()
    assert (run.code, run.err) == (0, "")
    dropped = relay.events("searches_dropped")
    assert {(event["level"], str(event["dropped"])) for event in dropped} == {("warning", "{'not_ssdp': 3}")}
    failures = relay.events("http_failures")
    assert [(event["level"], event["failures"]) for event in failures[:2]] == [("info", {"client_gone": 1})] * 2
    assert ("warning", {"client_gone": 1, "no_pod": 2}) in [(each["level"], each["failures"]) for each in failures[2:]]
    (stopped,) = relay.events("ssdp_relay_stopped")
    looks = stopped["searches"]
    assert looks == 1 + len(dropped), "each look is told, the last one too"
    assert {**stopped, "timestamp": ""} == {
        **{key: stopped[key] for key in ("level", "event", "pod", "lost_lines")},
        "timestamp": "",
        "searches": looks, "answers": 2 * looks, "announcements": {"ssdp:alive": looks}, "foreign": looks,
        "dropped": {"not_ssdp": 3 * looks}, "requests": 2 * looks, "bytes": 100 * looks, "events": looks,
        "rewritten": looks, "left": looks, "failures": {"client_gone": looks, "no_pod": 2 * (looks - 3)},
    }  # fmt: skip


def test_it_says_at_the_start_what_it_does(tmp_path: Path) -> None:
    with scripted(tmp_path, "", "--description", "80/a", "--allow-source", "192.168.1.0/24") as relay:
        (event,) = started(relay).events("ssdp_relay_started")
        assert {key: event[key] for key in ("service", "interface", "http_ports", "descriptions", "allow_source")} == {
            "service": "media", "interface": "eth0", "http_ports": "1-2", "descriptions": ["80/a"],
            "allow_source": ["192.168.1.0/24"],
        }  # fmt: skip
        assert relay.stop().code == 0
    assert [event["event"] for event in relay.events()] == [
        "ssdp_relay_started", "ssdp_relay_draining", "ssdp_relay_stopped",
    ]  # fmt: skip


def test_it_is_not_ready_while_it_says_goodbye(tmp_path: Path) -> None:
    slow = """
def serve(self):
    self._stopped.wait()
    time.sleep(0.7)
"""
    with scripted(tmp_path, slow) as relay:
        started(relay)
        assert [get(relay, path) for path in ("/readyz", "/livez")] == [(200, "ok\n")] * 2
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_until(lambda: "ssdp_relay_draining" in relay.out)
        assert get(relay, "/readyz") == (503, "draining\n")
        assert relay.end()[::2] == (0, "")


@pytest.mark.parametrize(
    ("script", "path", "answer"),
    [
        ('waiting = "interface eth9 is not there"', "/readyz", (503, "interface eth9 is not there\n")),
        ('waiting = "interface eth9 is not there"', "/livez", (200, "ok\n")),
        ("silence = 11.0", "/livez", (503, "nobody has looked after it for 11 s\n")),
        ("silence = 11.0", "/readyz", (200, "ok\n")),
    ],
)
def test_kubernetes_is_told_how_it_is(tmp_path: Path, script: str, path: str, answer: tuple[int, str]) -> None:
    with scripted(tmp_path, script) as relay:
        assert get(started(relay), path) == answer
        probe = fanout(
            "healthcheck", "--host", "127.0.0.1", *(["--live"] if path == "/livez" else []),
            FANOUT_ADMIN_PORT=str(relay.events("ssdp_relay_started")[0]["admin"]).rpartition(":")[2],
        )  # fmt: skip
        assert (probe.code, probe.out) == (0 if answer[0] == 200 else 1, answer[1])
        assert relay.stop().code == 0


def test_what_ends_it_is_one_sentence_behind_the_totals(tmp_path: Path) -> None:
    broken = """
def serve(self):
    time.sleep(0.5)
    raise SocketUnavailable("the interface is not what it was")
"""
    with scripted(tmp_path, broken) as relay:
        run = relay.end()
    assert run.assert_one_sentence(1) == "fanout: the interface is not what it was"
    assert relay.events()[-1]["event"] == "ssdp_relay_stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_is_not_lost(tmp_path: Path, number: int) -> None:
    opening = f"""
def __enter__(self):
    signal.pthread_kill(threading.main_thread().ident, {int(number)})
    time.sleep(0.5)
    return self
"""
    with scripted(tmp_path, opening) as relay:
        began = time.monotonic()
        assert relay.end()[::2] == (0, "")
        assert time.monotonic() - began < 10
    assert [event["event"] for event in relay.events()][-2:] == ["ssdp_relay_draining", "ssdp_relay_stopped"]


def test_an_interface_that_never_appears_is_one_sentence(tmp_path: Path) -> None:
    needed = ("relay", "ssdp", "-s", "10.0.0.1", "--interface", "nowhere0", "--interface-timeout", "2",
              "--http-ports", "1-2")  # fmt: skip
    admin = ("--admin-host", "127.0.0.1", "--admin-port", str(free_port()))
    with ending(Running((*needed, *admin), tmp_path, {}, None)) as relay:
        status, why = get(started(relay), "/readyz")
        assert (status, "nowhere0" in why) == (503, True)
        sentence = relay.end().assert_one_sentence(1)
    assert "there is no interface nowhere0 here" in sentence
    assert relay.events()[-1]["event"] == "ssdp_relay_stopped"


def test_what_it_cannot_have_is_one_sentence() -> None:
    needed = ("relay", "ssdp", "-s", "10.0.0.1", "--interface", "nowhere0")
    with socket.create_server(("127.0.0.1", 0)) as server:
        admin = ("--admin-host", "127.0.0.1", "--admin-port", str(server.getsockname()[1]))
        assert "admin port" in fanout(*needed, *admin).assert_one_sentence(1)
    log = ("--admin-port", "0", "--log-file", "/nonexistent/log")
    assert "/nonexistent/log" in fanout(*needed, *log).assert_one_sentence(1)


MEDIA_SERVER = """
import http.server

UDN = "uuid:4d696e69-0000-4000-8000-000000000001"
DESCRIPTION = f'''<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>
<device><deviceType>urn:schemas-upnp-org:device:MediaServer:1</deviceType>
<friendlyName>Films &#x202e;of ours</friendlyName>
<manufacturer>x</manufacturer><modelName>y</modelName><UDN>{UDN}</UDN></device></root>'''.encode()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(DESCRIPTION)))
        self.end_headers()
        self.wfile.write(DESCRIPTION)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.11", 8200), Handler).serve_forever()
"""


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Host]:
    """A host with a LAN of its own alone, and a media server that stands for a pod."""
    why = why_no_namespace()
    if why is not None:
        unavailable("tools", why)
    with Host("edge", 20, tmp_path) as host:
        host.ip("link add lan0 type veth peer name cable", "address add 10.50.0.20/24 dev lan0", "link set lan0 up",
                "link set cable up")  # fmt: skip
        host.start(sys.executable, "-c", MEDIA_SERVER)
        yield host


RELAY = ("relay", "ssdp", "-s", "127.0.0.11", "--interface", "lan0", "--admin-host", "127.0.0.1")


def fetch(host: Host, address: str, port: int, path: str) -> tuple[int, str]:
    """Return what that host gets from there."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    connection.sock = host.tcp()
    connection.sock.connect((address, port))
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_device_is_found_carried_counted_and_revoked(edge: Host) -> None:
    relay = started(edge.start(*FANOUT, *RELAY))
    relay.wait_until(lambda: edge.fanout("healthcheck", "--host", "127.0.0.1").code == 0)
    relay.wait_until(lambda: "fanout_ssdp_devices 1.0\n" in fetch(edge, "127.0.0.1", 8080, "/metrics")[1])
    edge.udp().sendto(b"no SSDP", ("10.50.0.20", 1900))
    relay.wait_until(lambda: relay.events("searches_dropped"))
    asking = edge.udp()
    asking.sendto(
        b'M-SEARCH * HTTP/1.1\r\nHOST: 10.50.0.20:1900\r\nMAN: "ssdp:discover"\r\nST: upnp:rootdevice\r\n\r\n',
        ("10.50.0.20", 1900),
    )
    location = re.search(rb"http://10\.50\.0\.20:(282[0-9]{2})/rootDesc\.xml\r", asking.recv(4096))
    assert location is not None
    status, description = fetch(edge, "10.50.0.20", int(location[1]), "/rootDesc.xml")
    assert (status, "of ours" in description) == (200, True)
    metrics = fetch(edge, "127.0.0.1", 8080, "/metrics")[1]
    for line in (
        "endpoints 1.0", "answers_total 1.0", 'http_requests_total{status="2xx"} 1.0',
        'dropped_total{reason="not_ssdp"} 1.0', f"http_bytes_total {float(len(description.encode()))}",
    ):  # fmt: skip
        assert f"\nfanout_ssdp_{line}\n" in metrics, line
    assert relay.stop()[::2] == (0, "")
    (stopped,) = relay.events("ssdp_relay_stopped")
    assert (stopped["requests"], stopped["answers"], stopped["dropped"]) == (1, 1, {"not_ssdp": 1})
    assert stopped["announcements"]["ssdp:byebye"] > 0
    assert [event["event"] for event in relay.events()][-3:] == [
        "ssdp_relay_draining", "device_gone", "ssdp_relay_stopped",
    ]  # fmt: skip


def test_on_a_terminal_it_shows_its_devices(edge: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.terminal.FANOUT", [*edge.command, *FANOUT])
    with terminal(*RELAY, "--admin-port", "0") as screen:
        row = re.compile(r"Films \Wof ours +127\.0\.0\.11 +http://10\.50\.0\.20:282[0-9]{2}/rootDesc\.xml +0 ")
        screen.wait_until(lambda: any(map(row.match, screen.lines)))
        assert screen.stop(signal.SIGTERM) == 0
        lines = [line.rstrip() for line in screen.lines]
    (head,) = (index for index, line in enumerate(lines) if line.startswith("STATE "))
    assert re.match(r"relaying +1 ", lines[head + 1])
    assert all(any(event in line for line in lines[:head]) for event in ("ssdp_relay_started", "ssdp_relay_stopped"))


def test_on_a_terminal_it_says_what_it_waits_for() -> None:
    needed = ("relay", "ssdp", "-s", "10.0.0.1", "--interface", "nowhere0", "--admin-port", "0")
    with terminal(*needed) as screen:
        screen.wait_until(lambda: any(line.startswith("waiting ") for line in screen.lines))
        assert screen.stop(signal.SIGTERM) == 0
        (head,) = (index for index, line in enumerate(screen.lines) if line.startswith("STATE "))
        assert "there is no interface nowhere0 here" in "".join(screen.lines[head:])
