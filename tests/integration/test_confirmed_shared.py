"""One sender that asks from several threads or tasks, in a child, while it is closed, or is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

import fanout
from fanout.testing import MemoryTransport
from tests.support.serving import by_status, literal, pods
from tests.support.waiting import until


def test_large_and_small_messages_of_tasks_keep_their_order() -> None:
    async def run() -> None:
        async with fanout.AsyncSender(literal(receivers), numbered=True) as sender:
            await sender.resolve()
            await asyncio.gather(*(sender.send(bytes(100_000 if number % 5 == 0 else 10)) for number in range(20)))

    got: list[fanout.Message] = []
    with pods(got.append) as receivers:
        asyncio.run(run())
        until(lambda: len(got) == 20)
        stats = receivers[0].stats
    assert (stats.skipped, stats.reordered) == (0, 0)


def test_a_forked_child_is_a_sender_of_its_own(key_file: str) -> None:
    """With the same identity and counters, both would seal with the same nonces, and their messages be one."""
    got: list[bytes] = []
    with pods(lambda message: got.append(message.payload), key_file=key_file) as receivers:
        sender = fanout.Sender(literal(receivers), key_file=key_file)
        assert sender.send(b"before", confirm=True).complete
        children = []
        for number in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: there are threads
                child = os.fork()
            if child == 0:
                code = 1
                with contextlib.suppress(BaseException):
                    code = not sender.send(b"child %d" % number, confirm=True, timeout=5).complete
                os._exit(code)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        assert sender.send(b"after", confirm=True).complete
        sender.close()
        assert len(receivers[0].receiver.senders) == 3
    assert sorted(got) == [b"after", b"before", b"child 0", b"child 1"]


def test_a_query_is_collected_while_its_sender_is_busy() -> None:
    """In a circle, and broken out of: the collector of garbage closes it wherever it likes."""

    class Holder:
        query: fanout.Query
        itself: object

    thresholds = gc.get_threshold()
    with pods(lambda message: b"x") as receivers, fanout.Sender(literal(receivers)) as sender:
        gc.set_threshold(13)
        try:
            for _ in range(200):
                holder = Holder()
                holder.itself = holder
                holder.query = sender.query(b"x")
                next(holder.query)
                del holder
                sender.send(b"plain")
        finally:
            gc.set_threshold(*thresholds)
        gc.collect()
        assert sender.stats.confirmed == 200


def test_threads_share_one_sender() -> None:
    slow, quick = (lambda message: time.sleep(0.001)), (lambda message: b"re:" + message.payload)
    with (
        pods(slow, quick) as receivers,
        ThreadPoolExecutor(8) as threads,
        fanout.Sender(literal(receivers)) as sender,
    ):
        queries = threads.map(lambda n: sender.query(b"%d" % n, timeout=10).gather(), range(40))
        confirmations = threads.map(lambda n: sender.send(b"%d" % n, confirm=True, timeout=10), range(40))
        assert [{reply.payload for reply in replies} for replies in queries] == [
            {b"", b"re:%d" % number} for number in range(40)
        ]
        assert all(confirmation.complete for confirmation in confirmations)
        assert (sender.stats.messages, sender.stats.confirmed, sender.stats.unconfirmed) == (80, 160, 0)
        assert [one.stats.confirmed + one.stats.replied for one in receivers] == [80, 80]


def test_tasks_share_one_sender() -> None:
    async def run() -> fanout.SenderStats:
        async with fanout.AsyncSender(literal(receivers)) as sender:
            done = await asyncio.gather(*(sender.send(b"x", confirm=True, timeout=10) for _ in range(40)))
            assert all(confirmation.complete for confirmation in done)
            return sender.stats

    with pods(lambda message: None, lambda message: None) as receivers:
        assert asyncio.run(run()).confirmed == 80


def test_a_query_is_an_iterator_and_can_be_left() -> None:
    with pods(lambda message: b"1", lambda message: time.sleep(0.3)) as receivers:
        sender = fanout.Sender(literal(receivers))
        query = sender.query(b"x", timeout=5)
        assert next(query).payload == b"1"
        replied, waits = (one.address for one in receivers)
        assert by_status(query.confirmation) == {"confirmed": [replied], "silent": [waits]}
        del query
        unasked = sender.query(b"x", timeout=5)
        del unasked
        assert (sender.stats.confirmed, sender.stats.unconfirmed) == (1, 3)
        sender.close()


def test_an_async_query_is_an_iterator_and_can_be_left() -> None:
    async def first() -> bytes:
        async with fanout.AsyncSender(literal(receivers)) as sender:
            query = sender.query(b"x", timeout=5)
            with pytest.raises(fanout.InvalidInput, match="nobody was asked yet"):
                _ = query.confirmation
            async for reply in query:
                return reply.payload
        return b""

    with pods(lambda message: b"1", lambda message: time.sleep(0.3)) as receivers:
        assert asyncio.run(first()) == b"1"


def test_closing_ends_the_wait() -> None:
    transport = MemoryTransport()
    sender = fanout.Sender("10.0.0.1,", transport=transport)
    threading.Timer(0.1, sender.close).start()
    with pytest.raises(fanout.Closed):
        sender.send(b"x", confirm=True, timeout=10)

    async def run() -> None:
        async with fanout.AsyncSender("10.0.0.1,", transport=MemoryTransport()) as other:
            asking = asyncio.create_task(other.send(b"x", confirm=True, timeout=10))
            await asyncio.sleep(0.05)
            await other.close()
            with pytest.raises(fanout.Closed):
                await asking

    asyncio.run(run())


def test_a_cancelled_question_is_forgotten() -> None:
    async def run() -> fanout.SenderStats:
        async with fanout.AsyncSender("10.0.0.1,", transport=MemoryTransport()) as sender:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sender.send(b"x", confirm=True, timeout=10), 0.05)
            return sender.stats

    stats = asyncio.run(run())
    assert (stats.confirmed, stats.unconfirmed) == (0, 1)
