"""What arrives: boundaries of merged runs, the bounded queue under any schedule, and what is counted where."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fanout
from fanout.model import Endpoint, Message
from fanout.net import bind, gro
from fanout.net.bind import RECEIVE_BUFFER
from fanout.protocol.receiving.run import Run
from fanout.receiver.engine import CAPACITY
from fanout.receiver.listener import Listener
from fanout.receiver.queue import BYTES_MAX, MessageQueue, Reservation, Sources
from fanout.receiver.workers import Waker, Workers
from tests.support.datagrams import gso_sender, send_run
from tests.support.open_files import open_files
from tests.support.waiting import PATIENCE, until


def cut(payload: bytes, segment: int) -> list[bytes]:
    return [payload[start : start + segment] for start in range(0, len(payload), segment)] if segment else [payload]


@contextmanager
def inbox_of(
    queue: MessageQueue, *, workers: int = 1, receive_buffer: int = RECEIVE_BUFFER, host: str | None = "127.0.0.1"
) -> Iterator[Listener]:
    listener = Listener(host, 0, queue, receive_buffer=receive_buffer, workers=workers)
    try:
        yield listener
    finally:
        listener.close()


def drain(listener: Listener, queue: MessageQueue, limit: int) -> list[Message]:
    """Take all that is there, by batches of at most `limit`."""
    got: list[Message] = []
    listener.fill()
    while batch := queue.take(limit):
        assert len(batch) <= limit
        got += batch
        listener.fill()
    return got


def backlog_of(capacity: int = CAPACITY, overflow: fanout.Overflow = fanout.Overflow.WAIT) -> MessageQueue:
    return MessageQueue(capacity, overflow)


def runs_of_datagrams() -> st.SearchStrategy[tuple[bytes, int]]:
    """Payload and segment size of one GSO send: 1 to 64 segments, the last of which may be shorter; 0 for none."""

    def payload(segment: int, count: int, last: int) -> tuple[bytes, int]:
        size = min((count - 1) * segment + min(last, segment), 65_507)
        return bytes(number * 31 % 251 for number in range(size)), segment if size > segment else 0

    return st.builds(payload, st.integers(1, 64) | st.integers(1, 1472), st.integers(1, 64), st.integers(1, 1472))


@given(
    st.lists(runs_of_datagrams() | st.just((b"", 0)) | st.just((bytes(65_507), 0)), min_size=1, max_size=8),
    st.integers(1, 200),
    st.sampled_from(["127.0.0.1", "0.0.0.0", None]),
)
def test_boundaries_are_kept_whatever_the_kernel_merged(
    sends: list[tuple[bytes, int]], limit: int, host: str | None
) -> None:
    expected = [datagram for payload, segment in sends for datagram in cut(payload, segment)]
    got: list[Message] = []
    waiting = 0
    queue = backlog_of()
    with (
        inbox_of(queue, host=host) as listener,
        gso_sender(Endpoint("127.0.0.1", listener.address.port)) as sender,
    ):
        listener.fill()
        for payload, segment in sends:
            waiting += len(payload)
            if waiting > 100_000:  # any kernel's receive buffer holds so much
                got += drain(listener, queue, limit)
                waiting = len(payload)
            send_run(sender, payload, segment)
        got += drain(listener, queue, limit)
        source = Endpoint(*sender.getsockname())
    assert [message.payload for message in got] == expected
    assert {message.source for message in got} == {source}


def test_sources_are_told_apart_however_their_runs_interleave() -> None:
    queue = backlog_of()
    with inbox_of(queue) as listener, gso_sender(listener.address) as one, gso_sender(listener.address) as other:
        got: list[Message] = []
        for _ in range(4):  # the kernel merges from the second time on
            for number in range(8):
                send_run(one, bytes([number]) * 200, 10)
                send_run(other, bytes([number]) * 300, 10)
            got += drain(listener, queue, 1000)
    by_source = {
        Endpoint(*sender): b"".join(message.payload for message in got if message.source == sender)
        for sender in {message.source for message in got}
    }
    assert sorted(map(len, by_source.values())) == [4 * 8 * 200, 4 * 8 * 300]


def test_runs_are_taken_with_one_call_each() -> None:
    """The point of it all: where the kernel merges, a call gives many messages."""
    with inbox_of(backlog_of()) as listener, gso_sender(listener.address) as sender:
        listener.fill()
        send_run(sender, bytes(6400), 100)
        runs = gro.receive(listener.readable, 1000, 10, 0.0)
    assert [(len(run.data), run.segment, run.messages) for run in runs] == [(6400, 100, 64)]


def test_a_system_that_does_not_merge_receives_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind, "UDP_GRO", 9999)
    queue = backlog_of()
    with inbox_of(queue) as listener, gso_sender(listener.address) as sender:
        send_run(sender, bytes(1000), 100)
        listener.fill()
        assert [message.payload for message in queue.take(100)] == [bytes(100)] * 10
    monkeypatch.setattr(sys, "platform", "darwin")
    with inbox_of(backlog_of()) as listener:
        assert listener.kernel_drops == 0


def test_endpoints_are_made_once_and_a_bounded_number_is_kept() -> None:
    sources = Sources()
    first = sources["::ffff:10.0.0.7", 1, 0, 0]
    assert first == Endpoint("10.0.0.7", 1)
    assert sources["::ffff:10.0.0.7", 1, 0, 0] is first
    for port in range(10_000):
        assert sources["fd00::1", port, 0, 0] == Endpoint("fd00::1", port)
    assert len(sources) <= 4096


# The kernel's counter.


def test_the_kernel_counts_each_datagram_while_nobody_takes() -> None:
    """Before the first look and while the queue is full, nothing is merged: a merged run would count as one drop."""
    queue = backlog_of(capacity=100)
    with inbox_of(queue, receive_buffer=100_000) as listener, gso_sender(listener.address) as sender:
        for _ in range(50):
            send_run(sender, bytes(6400), 100)
        listener.fill()
        assert queue.is_full
        before = queue.datagrams
        for _ in range(50):
            send_run(sender, bytes(6400), 100)
            listener.fill()
        assert queue.datagrams == before, "it takes nothing while it is full"
        listener.close()
        assert listener.kernel_drops > 5000
        assert queue.datagrams + listener.kernel_drops == 2 * 50 * 64
        assert len(queue.take(10_000)) == queue.datagrams


def test_the_kernel_counts_each_datagram_until_its_buffer_was_found_empty() -> None:
    """Room in the queue is no reason to merge: the kernel's buffer may be full all the same."""
    queue = backlog_of(capacity=1000)
    sent = 0
    with inbox_of(queue, receive_buffer=1_000_000) as listener, gso_sender(listener.address) as sender:

        def flood(runs: int) -> None:
            nonlocal sent
            for _ in range(runs):
                send_run(sender, bytes(6400), 100)
                sent += 64

        flood(50)
        while not queue.is_full:
            before = queue.datagrams
            listener.fill()
            if queue.datagrams == before:  # a small buffer holds less than the queue
                flood(1)
        for _ in range(20):
            while queue.is_full:
                queue.take(300)
            listener.fill()
            flood(50)
        assert listener.kernel_drops > 10_000
        drain(listener, queue, 1000)
        assert queue.datagrams + listener.kernel_drops == sent
        before = listener.kernel_drops
        flood(1)
        assert [run.messages for run in gro.receive(listener.readable, 1000, 10, 0.0)] == [64], "it merges again"
        assert listener.kernel_drops == before


def test_a_merged_run_that_is_dropped_counts_as_one_at_least() -> None:
    """The limit that the documentation names: true of a kernel that merges, with a receiver that does not look."""
    queue = backlog_of()
    with inbox_of(queue, receive_buffer=20_000) as listener, gso_sender(listener.address) as sender:
        listener.fill()
        for _ in range(50):
            send_run(sender, bytes(6400), 100)
        listener.close()
        taken = queue.depth
        assert 0 < listener.kernel_drops <= 50 * 64 - taken


# The bounded queue.


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


# The workers.


class Watched(MessageQueue):
    """Says when a worker has to wait for room."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity, fanout.Overflow.WAIT, takers=2)
        self.is_waited_for = threading.Event()

    def wait_for_room(self) -> None:
        if self.is_full:
            self.is_waited_for.set()
        super().wait_for_room()


def test_a_full_queue_holds_the_workers_up_until_there_is_room() -> None:
    queue = Watched(10)
    with inbox_of(queue, workers=2) as listener, gso_sender(listener.address) as sender:
        for number in range(100):
            sender.send(b"%d" % number)
        got: list[bytes] = []
        while len(got) < 90:
            assert queue.is_waited_for.wait(PATIENCE)
            queue.is_waited_for.clear()
            assert queue.depth == 10
            got += [message.payload for message in queue.take(5)]
            assert not queue.is_full
        until(lambda: queue.datagrams == 100)
        got += [message.payload for message in queue.take(100)]
    assert got == [b"%d" % number for number in range(100)]


def test_what_arrives_wakes_whoever_waits() -> None:
    arrived = Waker()
    arrived.readable.setblocking(False)
    with pytest.raises(BlockingIOError):
        arrived.readable.recv(1)
    arrived.set()
    arrived.set()
    arrived.clear()
    arrived.clear()
    with pytest.raises(BlockingIOError):
        arrived.readable.recv(1)
    arrived.close()


def test_a_thread_that_the_system_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "fanout-receiver-3":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(fanout.SocketUnavailable, match="thread 3 of workers=4") as caught:
        fanout.Receiver(0, workers=4).open()
    assert "\n" not in str(caught.value)
    assert Workers.__name__ not in str(caught.value)


def test_a_log_that_fails_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise fanout.FanoutError("the log is full")

    monkeypatch.setattr(bind.log, "warning", fail)
    before = open_files()
    with pytest.raises(fanout.FanoutError, match="the log is full"):
        fanout.Receiver(0, receive_buffer=1 << 30).open()
    assert open_files() == before
