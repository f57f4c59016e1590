"""Sockets for groups and broadcast, on loopback."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from fanout.errors import SocketUnavailable
from fanout.net import interfaces, pktinfo
from fanout.net.multicast import InterfaceNotReady, open_broadcast, open_group
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        interfaces.send_groups_by(opened, interfaces.index("lo") or 0, "127.0.0.1", 0)
        yield opened


def test_a_group_is_received_by_each_that_joined_it_and_by_no_other(sender: socket.socket) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        first, second, other = (
            stack.enter_context(open_group(group, port, "lo")) for group in ("239.1.1.1", "239.1.1.1", "239.1.1.2")
        )
        assert not first.getblocking()
        sender.sendto(b"one", ("239.1.1.1", port))
        sender.sendto(b"two", ("239.1.1.2", port))
        sender.sendto(b"to the host", ("127.0.0.1", port))
        for opened, expected in ((first, b"one"), (second, b"one"), (other, b"two")):
            opened.settimeout(PATIENCE)
            assert opened.recv(100) == expected
            opened.setblocking(False)
            with pytest.raises(BlockingIOError):
                opened.recv(100)


def test_of_a_source_specific_group_its_source_alone_is_received(sender: socket.socket) -> None:
    port = free_port()
    with (
        open_group("232.1.1.1", port, "lo", source="127.0.0.1") as opened,
        open_group("232.1.1.1", port, "lo", source="127.0.0.9") as other,
    ):
        sender.sendto(b"x", ("232.1.1.1", port))
        opened.settimeout(PATIENCE)
        assert opened.recv(100) == b"x"
        with pytest.raises(BlockingIOError):
            other.recv(100)


def test_a_broadcast_is_told_from_what_is_sent_to_the_host(sender: socket.socket) -> None:
    port = free_port()
    with open_broadcast(port, "lo") as opened:
        opened.settimeout(PATIENCE)
        told = []
        for host in ("127.255.255.255", "127.0.0.1"):
            sender.sendto(b"x", (host, port))
            _, control, *_ = opened.recvmsg(100, pktinfo.SPACE)
            told.append(pktinfo.is_broadcast(control))
        assert told == [True, False]


def test_an_interface_without_an_address_of_the_family_may_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "index", lambda name: 4711)
    with pytest.raises(InterfaceNotReady, match=r"cannot join 239\.1\.1\.1 on eth9: "):
        open_group("239.1.1.1", free_port(), "eth9")


def test_what_the_system_refuses_is_one_sentence(sender: socket.socket) -> None:
    with pytest.raises(SocketUnavailable, match=r"cannot listen on UDP .*: the port is in use"):
        open_broadcast(sender.getsockname()[1], "lo")
