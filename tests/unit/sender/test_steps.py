"""Copies that a flow sends: what is still to be attempted, and what failed."""

from __future__ import annotations

import errno

from fanout.model import Endpoint
from fanout.report import Fault
from fanout.sender.steps import Copies

PODS = tuple(Endpoint(f"10.0.0.{number}", 12_000) for number in range(3))


def test_one_datagram_goes_pod_by_pod() -> None:
    copies = Copies([b"reload"], PODS, gso_limit=1000)
    assert (copies.batch, copies.total, copies.size, copies.messages) == (None, 3, 6, 1)
    assert copies.next_endpoint == PODS[0]
    copies.position = copies.after(2)
    assert copies.next_endpoint == PODS[2]
    assert copies.after(5) == 3


def test_what_was_not_attempted_is_dropped_where_the_socket_stays_full() -> None:
    copies = Copies([b"reload"], PODS, gso_limit=1000)
    copies.position = 1
    copies.give_up()
    assert copies.faults == [Fault(pod, errno.EAGAIN, 0) for pod in PODS[1:]]
    assert copies.position == copies.total


def test_of_several_datagrams_each_copy_is_attempted_or_dropped() -> None:
    copies = Copies([b"aa", b"bb", b"c"], PODS, gso_limit=1000)
    assert copies.batch is not None
    assert (copies.total, copies.size, copies.messages) == (9, 5, 3)
    copies.position = copies.after(1)
    attempted = copies.position
    assert 0 < attempted < copies.total
    copies.give_up()
    assert len(set(copies.faults)) == copies.total - attempted
    assert {fault.errno for fault in copies.faults} == {errno.EAGAIN}
