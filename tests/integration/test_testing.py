"""The parts for users' own tests."""

from __future__ import annotations

import errno
import select
from concurrent.futures import ThreadPoolExecutor

import pytest

import fanout
from fanout.model import Endpoint
from fanout.testing import MemoryTransport, ScriptedResolver

POD = Endpoint("10.0.0.1", 12000)


def test_the_example_of_the_testing_module() -> None:
    transport = MemoryTransport()
    sender = fanout.Sender("headless-udp", resolver=ScriptedResolver("10.0.0.1,10.0.0.2"), transport=transport)
    with sender:
        report = sender.send(b"reload")
    assert transport.received("10.0.0.1") == [b"reload"]
    assert transport.received("10.0.0.2", 13000) == []
    assert report.complete
    with pytest.raises(ValueError, match="at least one"):
        ScriptedResolver()


def test_answers_that_nobody_takes_do_not_block() -> None:
    transport = MemoryTransport()
    for number in range(5000):
        transport.answer(b"%d" % number, POD)
    assert select.select(transport.readable(), [], [], 0)[0]
    taken = [each for _ in range(6) for each in transport.receive(1000)]
    assert taken == [(b"%d" % number, POD) for number in range(5000)]
    assert not select.select(transport.readable(), [], [], 0)[0]
    transport.close()


def test_errors_that_come_from_several_threads_are_all_told() -> None:
    transport = MemoryTransport(refusals={POD: errno.ECONNREFUSED})
    found = 0

    def send_many() -> None:
        for _ in range(20_000):
            transport.send(b"x", [POD], 0, 1, [])

    with ThreadPoolExecutor(2) as threads:
        sends = [threads.submit(send_many) for _ in range(2)]
        while not all(each.done() for each in sends) or transport.has_icmp_errors:
            found += len(transport.icmp_errors())
    assert found == 40_000
