"""The headers of `sendmmsg`: each entry is the copy of one message for one pod."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

import pytest

from fanout.model import Endpoint
from fanout.net.sendmmsg import MessageHeaders, SendMany, system_sendmmsg
from tests.support.pods import Pod


@pytest.fixture
def sendmmsg() -> SendMany:
    found = system_sendmmsg()
    assert found is not None
    return found


def test_one_call_sends_each_slot_to_each_pod(sendmmsg: SendMany, pods: Callable[..., list[Pod]]) -> None:
    three = pods(3)
    headers = MessageHeaders([pod.endpoint for pod in three])
    headers.fill([b"one", b"", b"three"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        assert sendmmsg(sender.fileno(), headers.start, 9) == 9
        for pod in three:
            assert [pod.receive() for _ in range(3)] == [b"one", b"", b"three"]
        assert sendmmsg(sender.fileno(), headers.address(3 + 1), 2) == 2, "the second message, from the second pod on"
        assert [pod.waiting() for pod in three] == [[], [b""], [b""]]


def test_ipv6_addresses_are_packed_as_the_kernel_reads_them(sendmmsg: SendMany, pods: Callable[..., list[Pod]]) -> None:
    (pod,) = pods(hosts=["::1"])
    headers = MessageHeaders([pod.endpoint])
    headers.fill([b"x"])
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        assert sendmmsg(sender.fileno(), headers.start, 1) == 1
    assert pod.receive() == b"x"


@pytest.mark.parametrize(("pods", "slots"), [(1, 64), (16, 64), (17, 60), (1024, 1), (4096, 1)])
def test_as_many_slots_as_one_call_takes(pods: int, slots: int) -> None:
    headers = MessageHeaders([Endpoint(f"10.0.{number // 250}.{number % 250}", 1) for number in range(pods)])
    assert headers.slots == slots
    assert slots == 1 or slots * pods <= headers.most


def test_an_errno_is_raised(sendmmsg: SendMany) -> None:
    headers = MessageHeaders([Endpoint("127.0.0.1", 9)])
    headers.fill([b"x"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        number = os.dup(sender.fileno())
    os.close(number)
    with pytest.raises(OSError, match="Bad file descriptor") as raised:
        sendmmsg(number, headers.start, 1)
    assert raised.value.errno == errno.EBADF


def test_a_host_that_is_not_an_address_is_refused() -> None:
    with pytest.raises(OSError, match="illegal IP address"):
        MessageHeaders([Endpoint("pod-0", 9)])
