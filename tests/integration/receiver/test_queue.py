"""Receivers under more than they can handle: what is lost is counted with its reason, and workers help."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest

import fanout
from fanout.model import Message
from fanout.receiver.aio import AsyncReceiver
from fanout.receiver.sync import Receiver
from tests.support.datagrams import gso_sender, send_run, send_to
from tests.support.waiting import until, until_async

EACH_POLICY = pytest.mark.parametrize("overflow", list(fanout.Overflow))


class Flood(threading.Thread):
    """Sends datagrams one by one until some were refused, and counts what became of them."""

    def __init__(self, sender: fanout.Sender) -> None:
        super().__init__()
        self._sender = sender
        self._sent = self._refused = 0
        self.start()

    def run(self) -> None:
        while self._refused < 20:
            self._send()

    def _send(self, settle: float = 0.0) -> None:
        (outcome,) = self._sender.send(b"x", settle=settle).outcomes
        self._sent += outcome.sent
        self._refused += outcome.refused

    def is_accounted_for(self, counted: int) -> bool:
        """Whether all that was not refused is among those that were counted, once all errors have come back."""
        self._send(settle=0.001)
        return self._sent - self._refused == counted


@EACH_POLICY
@pytest.mark.parametrize("workers", [1, 3])
def test_a_flood_while_stopping_is_handed_over_dropped_or_refused_and_all_is_counted(
    workers: int, overflow: fanout.Overflow
) -> None:
    """What the kernel took is handed over or a drop; what it no longer took is refused, so that its sender knows."""
    for _ in range(4):
        with (
            Receiver(
                0, host="127.0.0.1", receive_buffer=50_000, workers=workers, overflow=overflow, capacity=100
            ) as receiver,
            fanout.Sender(str(receiver.address)) as sender,
        ):
            flood = Flood(sender)
            handed_over = 0
            for _ in receiver:
                handed_over += 1
                if handed_over == 200:
                    receiver.stop()
            flood.join()
            stats = receiver.stats
            assert (stats.datagrams, stats.queue_depth) == (handed_over + stats.queue_drops, 0)
            counted = stats.datagrams + stats.kernel_drops
            until(lambda: flood.is_accounted_for(counted), f"{stats}")  # noqa: B023 - it ends in this turn


@pytest.mark.parametrize("workers", [1, 3])
def test_a_flood_while_an_async_receiver_stops_is_counted_too(workers: int) -> None:
    async def run() -> None:
        async with AsyncReceiver(0, host="127.0.0.1", receive_buffer=50_000, workers=workers) as receiver:
            with fanout.Sender(str(receiver.address)) as sender:
                flood = Flood(sender)
                handed_over = 0
                async for batch in receiver.batches():
                    handed_over += len(batch)
                    if handed_over >= 200:
                        receiver.stop()
                flood.join()
                counted = handed_over + receiver.stats.kernel_drops
                await until_async(lambda: flood.is_accounted_for(counted), f"{receiver.stats}")

    asyncio.run(run())


@EACH_POLICY
@pytest.mark.parametrize("workers", [1, 2])
def test_a_consumer_slower_than_the_stream_loses_nothing_uncounted(workers: int, overflow: fanout.Overflow) -> None:
    """For each message that is handed over, ten others are sent."""
    sent = 0
    handed: list[int] = []
    with (
        Receiver(
            0, host="127.0.0.1", receive_buffer=40_000, capacity=50, overflow=overflow, workers=workers
        ) as receiver,
        gso_sender(receiver.address) as sender,
    ):

        def send() -> None:
            nonlocal sent
            for _ in range(10):
                sender.send(b"%d" % sent)
                sent += 1

        send()
        for message in receiver:
            handed.append(int(message.payload))
            if sent < 2000:
                send()
            else:
                receiver.stop()
        stats = receiver.stats
    assert handed == sorted(handed)
    assert len(handed) + stats.kernel_drops + stats.queue_drops == sent
    assert stats.kernel_drops + stats.queue_drops > 1000
    assert (stats.queue_drops > 0) == (overflow is not fanout.Overflow.WAIT)


@EACH_POLICY
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("capacity", [1000, 8192])
def test_a_consumer_slower_than_merged_runs_loses_nothing_uncounted(
    capacity: int, workers: int, overflow: fanout.Overflow
) -> None:
    """Where the kernel merges, it counts a run as one drop: so it must not merge where it may drop.

    For each batch that is handed over, three times what it can hold is sent. Exact is what is sent while a receiver
    reads all or nothing: what comes in the very moment in which it begins again may be merged, and dropped as one.
    """

    async def run() -> None:
        async with AsyncReceiver(
            0, host="127.0.0.1", receive_buffer=200_000, capacity=capacity, overflow=overflow, workers=workers
        ) as receiver:
            sent = handed_over = 0
            with gso_sender(receiver.address) as sender:
                batches = receiver.batches()
                while sent < 25_000:
                    for _ in range(10):
                        for _ in range(5):
                            send_run(sender, bytes(6400), 100)
                            sent += 64
                        await until_async(lambda: reads_all(receiver, sent) or reads_nothing(receiver))  # noqa: B023
                    handed_over += len(await anext(batches))
                    await until_async(lambda: reads_all(receiver, sent) or reads_nothing(receiver))  # noqa: B023
                receiver.stop()
                async for batch in batches:
                    handed_over += len(batch)
            stats = receiver.stats
            assert handed_over + stats.kernel_drops + stats.queue_drops == sent
            assert stats.kernel_drops + stats.queue_drops > 0
            assert (stats.queue_drops > 0) == (overflow is not fanout.Overflow.WAIT)

    asyncio.run(run())


def reads_all(receiver: AsyncReceiver, sent: int) -> bool:
    stats = receiver.stats
    return stats.datagrams + stats.kernel_drops == sent


def reads_nothing(receiver: AsyncReceiver) -> bool:
    """Whether nobody reads before the next batch is asked for, and the kernel was told not to merge meanwhile."""
    listener = receiver._engine.listener
    assert listener is not None
    rests = receiver._engine.queue.is_full or (listener._workers is None and not receiver._is_watching)
    return rests and not any(reader._merges for reader in listener._readers)


@EACH_POLICY
def test_merged_runs_that_come_at_any_moment_are_counted_once_at_most(overflow: fanout.Overflow) -> None:
    """How many of them are counted is measured: `make bench`."""
    with (
        Receiver(0, host="127.0.0.1", receive_buffer=100_000, capacity=500, overflow=overflow, workers=2) as receiver,
        gso_sender(receiver.address) as sender,
    ):

        def stream() -> None:
            for _ in range(299):
                send_run(sender, bytes(6400), 100)
            receiver.stop()

        streaming = threading.Thread(target=stream)
        send_run(sender, bytes(6400), 100)
        batches = receiver.batches()
        handed_over = len(next(batches))
        streaming.start()
        handed_over += sum(map(len, batches))
        streaming.join()
        stats = receiver.stats
    assert handed_over == stats.datagrams - stats.queue_drops > 0
    assert stats.datagrams + stats.kernel_drops <= 300 * 64


@pytest.mark.parametrize("workers", [0, -1, 65, 1.5, True, "2", None])
def test_bad_workers(workers: int) -> None:
    for kind in (Receiver, AsyncReceiver):
        with pytest.raises(fanout.InvalidInput, match="from 1 to 64") as caught:
            kind(0, workers=workers)
        assert "\n" not in str(caught.value)


def test_bad_policies_and_capacities() -> None:
    with pytest.raises(fanout.InvalidInput, match="wait, drop_oldest, drop_newest"):
        Receiver(0, overflow="drop")
    with pytest.raises(fanout.InvalidInput, match="capacity must be a number of messages of at least 1; got 0"):
        Receiver(0, capacity=0)
    Receiver(0, overflow="drop_oldest")


def send_each(sender: socket.socket, payloads: list[bytes]) -> None:
    for payload in payloads:
        sender.send(payload)


def test_each_source_keeps_its_order_with_workers() -> None:
    sources, rounds = 8, 5
    payloads = [b"%d" % number for number in range(50)]
    by_source: dict[fanout.Endpoint, list[bytes]] = {}
    with Receiver(0, host="127.0.0.1", workers=4) as receiver, contextlib.ExitStack() as stack:
        assert sum(thread.name.startswith("fanout-receiver-") for thread in threading.enumerate()) == 4
        senders = [stack.enter_context(gso_sender(receiver.address)) for _ in range(sources)]
        messages = iter(receiver)
        for _ in range(rounds):
            threads = [threading.Thread(target=send_each, args=(sender, payloads)) for sender in senders]
            for thread in threads:
                thread.start()
            for _ in range(sources * len(payloads)):
                message = next(messages)
                by_source.setdefault(message.source, []).append(message.payload)
            for thread in threads:
                thread.join()
    assert list(by_source.values()) == [payloads * rounds] * sources


def test_workers_take_while_a_handler_blocks() -> None:
    with Receiver(0, host="127.0.0.1", workers=2, receive_buffer=20_000) as receiver:

        def handler(message: Message) -> None:
            if message.payload == b"slow":
                for sent in range(11, 202, 10):
                    send_to(receiver.address.port, [bytes(100)] * 10)
                    until(lambda: receiver.stats.datagrams == sent)  # noqa: B023 - it ends in this turn
                receiver.stop()

        send_to(receiver.address.port, [b"slow"])
        receiver.serve(handler)
        assert (receiver.stats.datagrams, receiver.stats.kernel_drops) == (201, 0)


def test_processes_of_one_user_share_a_port_where_each_has_workers() -> None:
    with Receiver(0, host="127.0.0.1", workers=2) as first:
        port = first.address.port
        with pytest.raises(fanout.SocketUnavailable, match="in use"):
            Receiver(port, host="127.0.0.1").open()
        with Receiver(port, host="127.0.0.1", workers=2) as second:
            for number in range(200):
                send_to(port, [b"%d" % number])
            shares: list[list[bytes]] = [[], []]
            for receiver, share in zip((first, second), shares, strict=True):
                for message in receiver:
                    share.append(message.payload)
                    receiver.stop()
    assert all(shares)
    assert sorted(int(payload) for share in shares for payload in share) == list(range(200))
