"""The facts about this host, as its kernel has them."""

from __future__ import annotations

import socket

import pytest

from fanout.doctor import host, kernel
from fanout.net.bind import RECEIVE_BUFFER


def test_the_granted_buffer_is_what_a_receiver_gets() -> None:
    facts = host.gather()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        assert facts.granted == receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    assert (facts.asked, facts.sysctl) == (RECEIVE_BUFFER, kernel.sysctl("net/core/rmem_max"))
    assert list(facts.room) == [200, 1200]
    assert 0 < facts.room[1200] <= facts.room[200]


def test_what_the_kernel_does_not_tell_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "read", lambda path: "")
    assert host.overflows() is None
    assert host.gather().sysctl is None


def test_a_host_without_loopback_has_no_room_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_SIZES", (1 << 17,))  # no datagram is so large: sending it fails
    assert host.gather().room == {}
