"""ICMP errors of a sending socket: each with the endpoint that it concerns."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest

from fanout.model import Endpoint
from fanout.net import error_queue
from fanout.report import Fault
from tests.support.needs import require_address
from tests.support.ports import refusing
from tests.support.waiting import until


@contextlib.contextmanager
def sender_to(host: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        error_queue.fill(sender, ":" in host)
        yield sender


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_refusal_is_read_once_with_the_endpoint_that_refused(host: str) -> None:
    require_address(host)
    with sender_to(host) as sender, refusing(host) as port:
        assert error_queue.read(sender) == []
        sender.sendto(b"x", (host, port))
        faults: list[Fault] = []

        def has_come() -> bool:
            faults.extend(error_queue.read(sender))
            return bool(faults)

        until(has_come, "an ICMP error")
        assert faults == [Fault(Endpoint(host, port), errno.ECONNREFUSED)]
        assert error_queue.read(sender) == []


def test_no_more_are_read_than_asked_for() -> None:
    with sender_to("127.0.0.1") as sender, refusing("127.0.0.1") as port:
        faults: list[Fault] = []

        def has_come() -> bool:
            with contextlib.suppress(ConnectionRefusedError):  # that of an earlier one
                sender.sendto(b"x", ("127.0.0.1", port))
            read = error_queue.read(sender, 1)
            assert len(read) <= 1
            faults.extend(read)
            return len(faults) == 3

        until(has_come, "three ICMP errors")


def test_what_the_kernel_refuses_itself_is_not_an_icmp_error() -> None:
    with sender_to("127.0.0.1") as sender:
        with pytest.raises(OSError, match="too long"):
            sender.sendto(bytes(65_508), ("127.0.0.1", 9))
        assert error_queue.read(sender) == []
