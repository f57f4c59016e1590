"""Sockets that listen: one that stopped receiving gets nothing more, whatever it was bound to."""

from __future__ import annotations

import contextlib
import socket

import pytest

from fanout.net import bind
from fanout.relay.core.ingress import Ingress
from fanout.relay.ingress_socket import open_port
from tests.support.needs import require_address


def group_on_loopback(host: str) -> socket.socket:
    url = f"mcast://{f'[{host}]' if ':' in host else host}:1-2@lo"
    return open_port(Ingress.parse(url, service="10.0.0.1"), 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::", None])
def test_a_socket_that_stopped_receiving_keeps_what_it_has(host: str | None) -> None:
    to = {"0.0.0.0": "127.0.0.1", "::": "::1", None: "127.0.0.1"}.get(host, host) or ""
    require_address(to)
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with (
        contextlib.closing(bind.listen(host, 0)) as opened,
        socket.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        port = opened.getsockname()[1]
        sender.sendto(b"before", (to, port))
        bind.stop_receiving(opened)
        sender.sendto(b"after", (to, port))
        assert opened.recv(100) == b"before"
        with pytest.raises(BlockingIOError):
            opened.recv(100)


@pytest.mark.parametrize("url", ["udp://[::]:1@lo", "udp://[::1]:1@lo"])
def test_what_is_bound_to_an_interface_stops_receiving_as_well(url: str) -> None:
    require_address("::1")
    ingress = Ingress.parse(url, service="10.0.0.1")
    with (
        contextlib.closing(open_port(ingress, 0)) as opened,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender,
    ):
        place = ("::1", opened.getsockname()[1])
        sender.sendto(b"before", place)
        assert opened.recv(100) == b"before"
        bind.stop_receiving(opened)
        sender.sendto(b"after", place)
        with pytest.raises(BlockingIOError):
            opened.recv(100)


def test_a_group_stops_receiving_without_a_route_to_it() -> None:
    with (
        contextlib.closing(group_on_loopback("239.1.1.1")) as opened,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        place = ("239.1.1.1", opened.getsockname()[1])
        sender.sendto(b"before", place)
        assert opened.recv(100) == b"before"
        bind.stop_receiving(opened)
        sender.sendto(b"after", place)
        with pytest.raises(BlockingIOError):
            opened.recv(100)
        assert opened.getpeername()[0] == "127.0.0.1"
