"""The bounded queue under any schedule: what is lost, and that it is counted."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fanout
from fanout.model import Endpoint
from fanout.protocol.receiving.run import Run
from fanout.receiver.queue import BYTES_MAX, MessageQueue, Reservation, Sources


def test_endpoints_are_made_once_and_a_bounded_number_is_kept() -> None:
    sources = Sources()
    first = sources["::ffff:10.0.0.7", 1, 0, 0]
    assert first == Endpoint("10.0.0.7", 1)
    assert sources["::ffff:10.0.0.7", 1, 0, 0] is first
    for port in range(10_000):
        assert sources["fd00::1", port, 0, 0] == Endpoint("fd00::1", port)
    assert len(sources) <= 4096


def run_of(payloads: list[bytes], segment: int) -> Run:
    return Run(b"".join(payloads), segment, len(payloads), ("10.0.0.7", 1), 0.0)


class Take(NamedTuple):
    """A step of a schedule: hand over so many."""

    limit: int


class Fill(NamedTuple):
    """A step: a taker reserves, or brings what the kernel gave it, which is no more than it may."""

    taker: int
    lengths: list[int]


def schedules() -> st.SearchStrategy[list[Take | Fill]]:
    fills = st.builds(Fill, st.integers(0, 2), st.lists(st.integers(1, 64), max_size=6))
    return st.lists(fills | fills | st.builds(Take, st.integers(1, 100)), max_size=60)


@given(schedules(), st.integers(1, 3), st.integers(1, 300), st.sampled_from(list(fanout.Overflow)))
def test_the_queue_holds_its_bounds_and_counts_exactly(
    schedule: list[Take | Fill], takers: int, capacity: int, overflow: fanout.Overflow
) -> None:
    queue = MessageQueue(capacity, overflow, takers)
    reserved: dict[int, Reservation] = {}
    handed: list[int] = []
    put: list[int] = []
    for step in [*schedule, Take(1_000_000)]:
        if isinstance(step, Take):
            depth = queue.depth
            messages = queue.take(step.limit)
            assert len(messages) == min(step.limit, depth)
            handed += [int(message.payload) for message in messages]
            continue
        taker = step.taker % takers
        if taker not in reserved:
            reserved[taker] = queue.reserve()
            assert (reserved[taker] == (0, 0)) == queue.is_full
            continue
        room = reserved.pop(taker)
        runs: list[Run] = []
        count = 0
        for length in step.lengths:
            if count < room.messages and len(runs) < room.calls:
                payloads = [b"%08d" % (len(put) + index) for index in range(length)]
                if length % 3 == 0:
                    payloads[-1] = payloads[-1].lstrip(b"0") or b"0"  # the last may be shorter
                runs.append(run_of(payloads, len(payloads[0])))
                put += range(len(put), len(put) + length)
                count += length
        queue.put(runs, room)
        assert queue.depth < capacity + 64 * takers
    assert handed == sorted(handed)
    assert queue.datagrams == len(put) == len(handed) + queue.drops
    assert queue.depth == 0
    if overflow is fanout.Overflow.WAIT or queue.drops == 0:
        assert handed == put
    assert queue.take(1) == []


def test_drop_oldest_keeps_the_newest_and_drop_newest_the_oldest() -> None:
    kept = {}
    for overflow in (fanout.Overflow.DROP_OLDEST, fanout.Overflow.DROP_NEWEST):
        queue = MessageQueue(10, overflow)
        for number in range(100):
            queue.put([run_of([b"%d" % number], 2)], queue.reserve())
        kept[overflow] = [int(message.payload) for message in queue.take(100)]
        assert queue.drops == 90
    assert kept == {
        fanout.Overflow.DROP_OLDEST: list(range(90, 100)),
        fanout.Overflow.DROP_NEWEST: list(range(10)),
    }


@pytest.mark.parametrize("overflow", list(fanout.Overflow))
def test_the_queue_is_bounded_in_bytes(overflow: fanout.Overflow) -> None:
    queue = MessageQueue(1_000_000, overflow)
    datagram = bytes(65_507)
    run = run_of([datagram], len(datagram))
    for _ in range(20):
        room = queue.reserve()
        queue.put([run] * room.calls, room)
    held = sum(len(message.payload) for message in queue.take(1000))
    assert BYTES_MAX <= held < BYTES_MAX + len(datagram)


def test_a_full_queue_takes_again_when_half_of_it_was_handed_over() -> None:
    queue = MessageQueue(10, fanout.Overflow.WAIT)
    queue.put([run_of([b"x"] * 10, 1)], queue.reserve())
    queue.take(4)
    assert queue.is_full
    queue.take(1)
    assert not queue.is_full
    queue.put([run_of([b"x"] * 64, 1)], queue.reserve())
    assert queue.is_full
    queue.lift()
    assert not queue.is_full
    queue.put([run_of([b"x"] * 64, 1)], queue.reserve())
    assert not queue.is_full


@pytest.mark.parametrize("capacity", [0, -1, True, 1.5, "10"])
def test_bad_capacities(capacity: int) -> None:
    with pytest.raises(fanout.InvalidInput, match="capacity"):
        MessageQueue(capacity, fanout.Overflow.WAIT)
