"""The facts about the host that the tests run on."""

from __future__ import annotations

import socket

import pytest

from fanout.doctor import host, kernel
from fanout.net import bind
from fanout.net.bind import RECEIVE_BUFFER


def test_the_granted_buffer_is_what_a_receiver_gets() -> None:
    facts = host.gather()
    assert facts.asked == RECEIVE_BUFFER
    assert facts.sysctl == kernel.sysctl("net/core/rmem_max")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        assert facts.granted == bind.grow_buffer(receiver, RECEIVE_BUFFER)
    assert list(facts.room) == [200, 1200]
    assert facts.room[200] >= facts.room[1200] > 0


def test_no_room_is_told_where_the_kernel_does_not_tell_what_a_datagram_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind, "held", lambda _: 0)
    assert host.gather().room == {}
