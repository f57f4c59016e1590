"""One port of an ingress: what waits is read a turn at a time, and what is refused is counted."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from fanout.acl import Acl, parse_network
from fanout.model import Endpoint
from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.ingress import Ingress
from fanout.relay.core.loop_guard import LoopGuard
from fanout.relay.core.stats import IngressStats
from fanout.relay.ingress_socket import open_port
from fanout.relay.port import ARENA, TURN, Port
from fanout.relay.self_filter import SelfFilter

INGRESS = Ingress.parse("udp://127.0.0.1:1", service="10.0.0.1")


class OnePort:
    """A port on loopback, its counts, and a socket that sends to it."""

    def __init__(self, sender: socket.socket, acl: Acl | None = None, guard: LoopGuard | None = None) -> None:
        self.counts = IngressStats(str(INGRESS), INGRESS.service, dropped=Counter())
        self.own = SelfFilter([INGRESS])
        self.port = Port(1, open_port(INGRESS, 0), INGRESS, self.counts, self.own, acl, guard)
        self.arena = memoryview(bytearray(ARENA))
        sender.connect(self.port.socket.getsockname())
        self.sender = sender

    def payloads(self) -> list[bytes]:
        """Read a turn, and return its datagrams one by one."""
        return [
            bytes(self.arena[at : min(at + max(size, 1), end)])
            for start, end, size in self.port.read(self.arena)
            for at in range(start, max(end, start + 1), max(size, 1))
        ]


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 0))
        yield sender


def test_a_turn_returns_what_waits_in_order(sender: socket.socket) -> None:
    one = OnePort(sender)
    sent = [b"first", b"", b"second", b"x" * 65_507]
    with one.port.socket:
        assert one.payloads() == []
        for payload in sent:
            sender.send(payload)
        assert one.payloads() == sent
    assert (one.counts.datagrams, one.counts.bytes, one.counts.dropped) == (4, sum(map(len, sent)), {})


def test_a_turn_ends_so_that_other_ports_have_theirs(sender: socket.socket) -> None:
    one = OnePort(sender, guard=LoopGuard())  # with a guard the kernel merges nothing
    sent = [b"%d" % number for number in range(TURN + 1)]
    with one.port.socket:
        for payload in sent:
            sender.send(payload)
        assert one.payloads() == sent[:TURN]
        assert one.payloads() == sent[TURN:]


def test_its_own_datagrams_are_refused(sender: socket.socket) -> None:
    one = OnePort(sender)
    one.own.send_from([Endpoint(*sender.getsockname())])
    with one.port.socket:
        sender.send(b"mine")
        assert one.payloads() == []
    assert one.counts.dropped == {RelayDrop.OWN: 1}


def test_a_source_that_is_not_allowed_is_refused(sender: socket.socket) -> None:
    one = OnePort(sender, Acl((parse_network("10.0.0.0/8"),), None))
    with one.port.socket:
        sender.send(b"x")
        assert one.payloads() == []
    assert (one.counts.datagrams, one.counts.dropped) == (1, {RelayDrop.SOURCE_NOT_ALLOWED: 1})


def test_what_comes_again_from_another_source_is_a_loop(sender: socket.socket) -> None:
    one = OnePort(sender, guard=LoopGuard())
    with one.port.socket, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        sender.send(b"x")
        other.sendto(b"x", one.port.socket.getsockname())
        assert one.payloads() == [b"x"]
    assert one.counts.dropped == {RelayDrop.LOOP: 1}


def test_a_deaf_port_keeps_what_came_before(sender: socket.socket) -> None:
    one = OnePort(sender)
    with one.port.socket:
        sender.send(b"before")
        one.port.stop_receiving()
        assert one.payloads() == [b"before"]
        assert one.port.drops == 0
    assert one.port.drops == 0, "a closed one has no counters"
