"""One sender that asks from several threads or tasks, in a child, while it is closed, or is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

import fanout
from fanout.protocol import frame
from fanout.testing import MemoryTransport
from tests.support.handler_pods import Served, by_status, literal, pods
from tests.support.waiting import PATIENCE, give_turns, until, until_async

HOUR = 3600.0
"""Those who answer are waited for, however long they take."""


def test_large_and_small_messages_of_tasks_keep_their_order() -> None:
    async def run() -> None:
        async with fanout.AsyncSender(literal(receivers), numbered=True) as sender:
            await sender.resolve()
            await asyncio.gather(*(sender.send(bytes(60_000 if number % 10 == 0 else 10)) for number in range(20)))

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
        assert sender.send(b"before", confirm=True, timeout=HOUR).complete
        children = []
        for number in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: there are threads
                child = os.fork()
            if child == 0:
                code = 1
                with contextlib.suppress(BaseException):
                    code = not sender.send(b"child %d" % number, confirm=True, timeout=HOUR).complete
                os._exit(code)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        assert sender.send(b"after", confirm=True, timeout=HOUR).complete
        sender.close()
        assert len(receivers[0].receiver.senders) == 3
    assert sorted(got) == [b"after", b"before", b"child 0", b"child 1"]


def test_a_child_that_is_forked_while_a_thread_waits_for_answers_reads_its_own() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pod:
        pod.settimeout(PATIENCE)
        pod.bind(("127.0.1.1", 0))
        host, port = pod.getsockname()
        sender = fanout.Sender(f"{host}:{port},")
        held: list[fanout.Confirmation] = []
        waiting = threading.Thread(target=lambda: held.append(sender.send(b"held", confirm=True, timeout=HOUR)))
        waiting.start()
        until(lambda: sender._engine.exchanges.is_reading)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: there are threads
            child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                code = not sender.send(b"child", confirm=True, timeout=HOUR).complete
            os._exit(code)
        for payload in (b"child", b"held"):
            _confirm(pod, payload)
        assert os.waitpid(child, 0)[1] == 0
        waiting.join()
        sender.close()
    assert held[0].complete


def test_a_child_sends_nothing_for_a_query_of_its_parent(key_file: str) -> None:
    """With its parent's counters it would seal with the nonces of the parent; and a lock may be held for ever."""
    holding, released = threading.Event(), threading.Event()

    def hold() -> None:
        with sender._engine.exchanges.answers:
            holding.set()
            assert released.wait(PATIENCE)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pod:
        pod.settimeout(PATIENCE)
        pod.bind(("127.0.1.1", 0))
        host, port = pod.getsockname()
        with fanout.Sender(f"{host}:{port},", key_file=key_file) as sender:
            query = sender.query(b"x", timeout=HOUR)
            assert pod.recv(65_535)
            holder = threading.Thread(target=hold)
            holder.start()
            assert holding.wait(PATIENCE)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: there are threads
                child = os.fork()
            if child == 0:
                code = 1
                try:
                    next(query)
                except fanout.Closed:
                    code = query.confirmation.complete
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
            released.set()
            holder.join()
            pod.setblocking(False)
            with pytest.raises(BlockingIOError):
                pod.recv(65_535)


def _confirm(pod: socket.socket, payload: bytes) -> None:
    """Let a pod confirm a message once it comes, and say nothing to others."""
    while True:
        datagram, asker = pod.recvfrom(65_535)
        found = frame.decode(datagram)
        assert isinstance(found, frame.Fragment)
        if found.payload == payload:
            answer = frame.answer(9, found.number, found.sender, found.attempt, frame.AnswerStatus.CONFIRMED)
            pod.sendto(answer, asker)
            return


def test_a_query_that_only_its_iteration_holds_goes_on() -> None:
    with one_that_replies_and_one_that_does_not() as (receivers, released), fanout.Sender(literal(receivers)) as sender:
        replies = []
        for reply in sender.query(b"x", timeout=HOUR):
            replies.append(reply.payload)
            assert sender.stats.unconfirmed == 0
            released.set()
        assert replies == [b"1", b"2"]


def test_a_query_is_collected_while_its_sender_is_busy() -> None:
    """In a circle, and broken out of: the collector of garbage closes it wherever it likes."""

    class Holder:
        query: fanout.Query
        itself: object

    thresholds = gc.get_threshold()
    with pods(lambda message: b"x") as receivers, fanout.Sender(literal(receivers)) as sender:
        gc.set_threshold(13)
        try:
            for _ in range(100):
                holder = Holder()
                holder.itself = holder
                holder.query = sender.query(b"x", timeout=HOUR)
                next(holder.query)
                del holder
                sender.send(b"plain")
        finally:
            gc.set_threshold(*thresholds)
        gc.collect()
        assert sender.stats.confirmed == 100


def test_threads_share_one_sender() -> None:
    with (
        pods(lambda message: None, lambda message: b"re:" + message.payload) as receivers,
        ThreadPoolExecutor(8) as threads,
        fanout.Sender(literal(receivers)) as sender,
    ):
        queries = threads.map(lambda n: sender.query(b"%d" % n, timeout=HOUR, retries=0).gather(), range(40))
        confirmations = threads.map(lambda n: sender.send(b"%d" % n, confirm=True, timeout=HOUR, retries=0), range(40))
        assert [{reply.payload for reply in replies} for replies in queries] == [
            {b"", b"re:%d" % number} for number in range(40)
        ]
        assert all(confirmation.complete for confirmation in confirmations)
        assert (sender.stats.messages, sender.stats.confirmed, sender.stats.unconfirmed) == (80, 160, 0)
        assert [one.stats.confirmed + one.stats.replied for one in receivers] == [80, 80]


def test_tasks_share_one_sender() -> None:
    async def run() -> fanout.SenderStats:
        async with fanout.AsyncSender(literal(receivers)) as sender:
            done = await asyncio.gather(*(sender.send(b"x", confirm=True, timeout=HOUR) for _ in range(40)))
            assert all(confirmation.complete for confirmation in done)
            return sender.stats

    with pods(lambda message: None, lambda message: None) as receivers:
        assert asyncio.run(run()).confirmed == 80


@contextmanager
def one_that_replies_and_one_that_does_not() -> Iterator[tuple[list[Served], threading.Event]]:
    """Once the event is set, the other one replies as well."""
    released = threading.Event()
    with pods(lambda message: b"1", lambda message: released.wait() and b"2") as receivers:
        try:
            yield receivers, released
        finally:
            released.set()


def test_a_query_is_an_iterator_and_can_be_left() -> None:
    with one_that_replies_and_one_that_does_not() as (receivers, _):
        sender = fanout.Sender(literal(receivers))
        query = sender.query(b"x", timeout=HOUR)
        assert next(query).payload == b"1"
        replied, waits = (one.address for one in receivers)
        assert by_status(query.confirmation) == {"confirmed": [replied], "silent": [waits]}
        del query
        unasked = sender.query(b"x", timeout=HOUR)
        del unasked
        assert (sender.stats.confirmed, sender.stats.unconfirmed) == (1, 3)
        sender.close()


def test_an_async_query_is_an_iterator_and_can_be_left() -> None:
    async def first() -> bytes:
        async with fanout.AsyncSender(literal(receivers)) as sender:
            query = sender.query(b"x", timeout=HOUR)
            with pytest.raises(fanout.InvalidInput, match="no pod was asked yet"):
                _ = query.confirmation
            async for reply in query:
                return reply.payload
        return b""

    with one_that_replies_and_one_that_does_not() as (receivers, _):
        assert asyncio.run(first()) == b"1"


def test_closing_ends_the_wait() -> None:
    transport = MemoryTransport()
    sender = fanout.Sender("10.0.0.1,", transport=transport)

    def close() -> None:
        until(lambda: transport.sent)
        sender.close()

    closing = threading.Thread(target=close)
    closing.start()
    with pytest.raises(fanout.Closed):
        sender.send(b"x", confirm=True, timeout=HOUR)
    closing.join()


def test_closing_ends_the_wait_of_tasks() -> None:
    async def run() -> None:
        transport = MemoryTransport()
        async with fanout.AsyncSender("10.0.0.1,", transport=transport) as sender:
            asking = asyncio.create_task(sender.send(b"x", confirm=True, timeout=HOUR))
            await until_async(lambda: transport.sent)
            await give_turns(3)
            await sender.close()
            with pytest.raises(fanout.Closed):
                await asking

    asyncio.run(run())


def test_a_cancelled_question_is_forgotten() -> None:
    async def run() -> fanout.SenderStats:
        transport = MemoryTransport()
        async with fanout.AsyncSender("10.0.0.1,", transport=transport) as sender:
            asking = asyncio.create_task(sender.send(b"x", confirm=True, timeout=HOUR))
            await until_async(lambda: transport.sent)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            return sender.stats

    stats = asyncio.run(run())
    assert (stats.confirmed, stats.unconfirmed) == (0, 1)
