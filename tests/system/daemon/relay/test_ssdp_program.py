"""The app of `fanout relay ssdp` in a host of its own: it finds, carries, counts and revokes a device."""

from __future__ import annotations

import http.client
import re
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.support.cli import FANOUT
from tests.support.lan import Host
from tests.support.namespace import why_no_namespace
from tests.support.needs import unavailable
from tests.support.terminal import terminal
from tests.support.waiting import PATIENCE

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


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with a LAN of its own alone, and a media server that stands for a pod."""
    why = why_no_namespace()
    if why is not None:
        unavailable("tools", why)
    with Host("edge", 20, tmp_path_factory.mktemp("edge")) as host:
        host.ip("link add lan0 type veth peer name cable", "address add 10.50.0.20/24 dev lan0", "link set lan0 up",
                "link set cable up")  # fmt: skip
        host.start(sys.executable, "-c", MEDIA_SERVER)
        yield host


RELAY = ("relay", "ssdp", "-s", "127.0.0.11", "--interface", "lan0", "--admin-host", "127.0.0.1")


def fetch(host: Host, address: str, port: int, path: str) -> tuple[int, str]:
    """Return what that host gets from there."""
    connection = http.client.HTTPConnection(address, port, timeout=PATIENCE)
    connection.sock = host.tcp()
    connection.sock.connect((address, port))
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_device_is_found_carried_counted_and_revoked(edge: Host) -> None:
    relay = edge.start(*FANOUT, *RELAY)
    relay.wait_until(lambda: edge.invoke("healthcheck", "--host", "127.0.0.1", "--timeout", "60").code == 0)
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
    expected = {
        f"fanout_ssdp_{line}"
        for line in (
            "endpoints 1.0",
            "answers_total 1.0",
            'http_requests_total{status="2xx"} 1.0',
            'dropped_total{reason="not_ssdp"} 1.0',
            f"http_bytes_total {float(len(description.encode()))}",
        )
    }
    # What was carried is counted when the client has it already.
    relay.wait_until(lambda: expected <= set(fetch(edge, "127.0.0.1", 8080, "/metrics")[1].splitlines()))
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
