"""What control messages tell of where a datagram came to."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from fanout.net import pktinfo
from fanout.protocol.receiving.run import ControlMessages

HERE, BROADCAST = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 255))
OF_IPV4, OF_IPV6 = (socket.IPPROTO_IP, 8), (socket.IPPROTO_IPV6, 50)


def told(interface: int, local: bytes, destination: bytes) -> ControlMessages:
    return [(*OF_IPV4, struct.pack("=i4s4s", interface, local, destination))]


def told6(destination: bytes, interface: int) -> ControlMessages:
    return [(*OF_IPV6, struct.pack("=16si", destination, interface))]


def test_the_interface_is_told_of_either_family() -> None:
    assert pktinfo.interface(told(3, HERE, HERE)) == 3
    assert pktinfo.interface(told6(bytes(16), 4)) == 4
    assert pktinfo.interface([]) == 0


def test_a_broadcast_came_to_another_address_than_that_of_its_interface() -> None:
    assert pktinfo.is_broadcast(told(3, HERE, BROADCAST))
    assert not pktinfo.is_broadcast(told(3, HERE, HERE))
    assert not pktinfo.is_broadcast([])
    assert not pktinfo.is_broadcast(told6(bytes(16), 4))


def test_an_answer_leaves_from_the_address_that_was_asked_by_any_interface() -> None:
    assert pktinfo.answer_from(told(3, HERE, HERE)) == told(0, HERE, bytes(4))
    assert pktinfo.answer_from(told(3, bytes(4), HERE)) == told(0, HERE, bytes(4)), (
        "before the kernel was asked to tell"
    )
    assert pktinfo.answer_from(told6(bytes(range(16)), 4)) == told6(bytes(range(16)), 0)
    assert pktinfo.answer_from(None) == pktinfo.answer_from([]) == []


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40)), max_size=3))
def test_other_control_messages_say_nothing(control: ControlMessages) -> None:
    others = [each for each in control if each[:2] not in (OF_IPV4, OF_IPV6)]
    assert pktinfo.interface(others) == 0
    assert not pktinfo.is_broadcast(others)
    assert pktinfo.answer_from(others) == []
    for each in control:  # of a length that is none
        pktinfo.interface([each])
        pktinfo.is_broadcast([each])
        pktinfo.answer_from([each])
