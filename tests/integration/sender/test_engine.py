"""Streams, and what several tasks send: coalesced, paced, cancelled, stopped, closed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

import fanout
from fanout.discovery.core.answer import DnsAnswer
from fanout.protocol.sending.batch import Batch
from fanout.report import Report
from fanout.sender.aio import AsyncSender
from fanout.sender.sync import Sender
from fanout.testing import MemoryTransport, ScriptedResolver
from tests.support.clock import ScriptedClock
from tests.support.shells import B, Calls, Shell, Stuck, full_socket
from tests.support.waiting import PATIENCE, Turns, give_turns, until, until_async


def test_what_tasks_send_in_one_turn_of_the_loop_leaves_together() -> None:
    transport = Calls(faults={B: errno.EPERM})

    async def run() -> list[Report]:
        async with AsyncSender("10.0.0.1,10.0.0.2", transport=transport) as sender:
            await sender.resolve()
            return await asyncio.gather(*(sender.send(b"%d" % number) for number in range(1000)))

    reports = asyncio.run(run())
    assert len(transport.calls) <= 1 + 4
    assert sum(map(len, transport.calls)) == 1000
    assert transport.received("10.0.0.1") == [b"%d" % number for number in range(1000)]
    for number, report in enumerate(reports):
        assert (report.messages, report.size) == (1, len(str(number)))
        assert [(outcome.sent, outcome.dropped) for outcome in report.outcomes] == [(1, 0), (0, 1)]


def test_a_lone_message_leaves_before_the_loop_turns() -> None:
    transport = Calls()

    async def run() -> None:
        async with AsyncSender("10.0.0.1", transport=transport) as sender:
            await sender.resolve()
            async with Turns() as turns:
                for _ in range(10):
                    await sender.send(b"x")
                assert turns.count == 0
            assert len(transport.calls) == 10

    asyncio.run(run())


def test_a_cancelled_task_takes_its_message_back() -> None:
    transport = Calls()

    async def run() -> None:
        async with AsyncSender("10.0.0.1", transport=transport) as sender:
            await sender.resolve()
            tasks = [asyncio.create_task(sender.send(b"%d" % number)) for number in range(4)]
            asyncio.get_running_loop().call_soon(tasks[2].cancel)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(result, asyncio.CancelledError) for result in results] == [False, False, True, False]

    asyncio.run(run())
    assert transport.received("10.0.0.1") == [b"0", b"1", b"3"]


def test_a_queued_message_is_told_of_an_error() -> None:
    async def run() -> None:
        sender = AsyncSender("10.0.0.1", transport=MemoryTransport())
        await sender.resolve()
        tasks = [asyncio.create_task(sender.send(b"x")) for _ in range(3)]
        await give_turns()
        await sender.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], Report)
        assert [type(result) for result in results[1:]] == [fanout.Closed] * 2

    asyncio.run(run())


def test_an_async_iterable_that_waits_holds_nothing_back() -> None:
    transport = Calls()

    async def payloads() -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"
        yield b"3"
        await give_turns(5)
        assert transport.received("10.0.0.1") == [b"1", b"2", b"3"]
        yield b"4"

    async def run() -> Report:
        async with AsyncSender("10.0.0.1", transport=transport) as sender:
            return await sender.send_many(payloads())

    assert asyncio.run(run()).messages == 4
    assert transport.received("10.0.0.1") == [b"1", b"2", b"3", b"4"]


def test_a_stream_is_paced_and_coalesced(send: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ScriptedClock()
    clock.pace(monkeypatch)
    started, left = clock.now, list[float]()

    class Timed(MemoryTransport):
        def send(self, *arguments: Any) -> int:
            left.append(clock.now - started)
            return super().send(*arguments)

        def send_batch(self, batch: Batch, *arguments: Any) -> int:
            assert len(batch.payloads) <= 256
            left.extend([clock.now - started] * len(batch.payloads))
            return super().send_batch(batch, *arguments)

    report = send("10.0.0.1", [b"x"] * 500, transport=Timed(), pace={"rate": 5_000})
    assert report.messages == len(left) == 500
    assert all(moment >= number / 5_000 - 1e-9 for number, moment in enumerate(left))
    assert left[-1] <= 499 / 5_000 + 0.003, "a few ticks late, at most"
    assert len(set(left)) < 200, "what is due within a tick leaves together"


def test_an_empty_stream_sends_nothing(send: Shell) -> None:
    transport = Calls()
    report = send("10.0.0.1", [], transport=transport)
    assert (report.messages, report.outcomes, transport.calls) == (0, (), [])
    assert report.complete


def test_a_pace_that_is_none_is_refused(send: Shell) -> None:
    for pace in ({"rate": 0}, {"rate": -5}, {"bandwidth": 0}, {"bandwidth": 799}, {"rate": 1, "burst": 0}):
        transport = Calls()
        with pytest.raises(fanout.InvalidInput):
            send("10.0.0.1", [bytes(100)], transport=transport, pace=pace)
        assert transport.calls == []


def test_whoever_cancels_the_task_that_sends_leaves_nobody_waiting() -> None:
    async def run(turns: int) -> None:
        transport = MemoryTransport(room=[0] * 3 + [1] * 500)
        async with AsyncSender("10.0.0.1", transport=transport) as sender:
            await sender.resolve()
            sends = [asyncio.create_task(sender.send(b"%d" % number)) for number in range(5)]
            await give_turns(turns)
            for task in asyncio.all_tasks() - {*sends, asyncio.current_task()}:
                task.cancel()  # what a shutdown helper does to tasks it does not know
            results = await asyncio.wait_for(asyncio.gather(*sends, return_exceptions=True), PATIENCE)
            assert {type(result) for result in results} <= {Report, fanout.Closed}
            assert (await sender.send(b"later")).complete

    for turns in range(6):
        asyncio.run(run(turns))


class SlowResolver(ScriptedResolver):
    """Answers once it is allowed to."""

    def __init__(self, *script: str) -> None:
        super().__init__(*script)
        self.was_asked, self.may_answer = threading.Event(), threading.Event()

    def resolve(self) -> DnsAnswer:
        self.was_asked.set()
        self.may_answer.wait()
        return super().resolve()


def test_a_cancelled_stream_ends_at_once_and_takes_back_what_was_not_sent() -> None:
    transport, resolver = MemoryTransport(), SlowResolver("10.0.0.1")

    async def run() -> None:
        async with AsyncSender("headless-udp", resolver=resolver, transport=transport) as sender:
            streams = [asyncio.create_task(sender.send_many([b"a", b"b"])), asyncio.create_task(sender.send(b"c"))]
            await until_async(resolver.was_asked.is_set)
            await give_turns(3)
            for stream in streams:
                stream.cancel()
            results = await asyncio.gather(*streams, return_exceptions=True)
            assert [type(result) for result in results] == [asyncio.CancelledError] * 2
            resolver.may_answer.set()
            assert (await sender.send(b"d")).complete

    asyncio.run(run())
    assert transport.received("10.0.0.1") == [b"d"]


def test_a_sender_outlives_an_event_loop_that_was_closed_under_it() -> None:
    sender = AsyncSender("10.0.0.1", transport=MemoryTransport())

    async def burst() -> int:
        await sender.resolve()
        return len(await asyncio.gather(*(sender.send(b"x") for _ in range(10))))

    assert asyncio.run(burst()) == asyncio.run(burst()) == 10
    asyncio.run(sender.close())


@pytest.mark.parametrize("is_async", [False, True])
def test_a_close_wakes_who_waits_for_a_full_socket(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanout.sender.engine.STALL", 3600.0)
    with full_socket() as left:
        if is_async:

            async def run() -> None:
                sender = AsyncSender("10.0.0.1,10.0.0.2,10.0.0.3", transport=Stuck(left.fileno()))
                await sender.resolve()
                waiting = asyncio.create_task(sender.send(b"x"))
                await until_async(lambda: sender.stats.sent == 2)
                await give_turns(3)
                await sender.close()
                with pytest.raises(fanout.Closed):
                    await waiting
                assert sender.stats.sent == 2

            asyncio.run(run())
        else:
            sender = Sender("10.0.0.1,10.0.0.2,10.0.0.3", transport=Stuck(left.fileno()))

            def close() -> None:
                until(lambda: sender.stats.sent == 2)
                sender.close()

            closing = threading.Thread(target=close)
            closing.start()
            with pytest.raises(fanout.Closed):
                sender.send(b"x")
            closing.join()
            assert sender.stats.sent == 2
        assert left.fileno() >= 0
        with contextlib.suppress(BlockingIOError):
            left.send(b"", socket.MSG_DONTWAIT)


def test_copies_of_a_cancelled_send_are_counted() -> None:
    transport = MemoryTransport()
    service = ",".join(f"10.0.{number // 250}.{number % 250 + 1}" for number in range(1000))

    async def run() -> None:
        async with AsyncSender(service, transport=transport) as sender:
            await sender.resolve()
            task = asyncio.create_task(sender.send(b"x"))
            await give_turns()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert 0 < len(transport.sent) < 1000
            assert sender.stats.sent == len(transport.sent)

    asyncio.run(run())


def test_a_stream_that_fails_has_its_report(send: Shell) -> None:
    with pytest.raises(fanout.MessageTooLarge) as caught:
        send("10.0.0.1", [b"1", b"2", bytes(70_000)], transport=MemoryTransport())
    report = caught.value.report
    assert (report.messages, report.size, report.complete) == (2, 2, True)


@pytest.mark.parametrize("payloads", [b"abc", bytearray(b"abc"), "abc"])
def test_one_payload_is_no_stream(send: Shell, payloads: Any) -> None:
    with pytest.raises(fanout.InvalidInput, match="iterable of payloads"):
        send("10.0.0.1", payloads, transport=MemoryTransport())


def test_an_event_stops_an_async_stream() -> None:
    transport = MemoryTransport()

    async def run() -> Report:
        stop = asyncio.Event()

        async def stop_in_the_middle() -> None:
            await until_async(lambda: transport.sent)
            stop.set()

        async with AsyncSender("10.0.0.1", transport=transport) as sender:
            stopping = asyncio.create_task(stop_in_the_middle())
            report = await sender.send_many((b"x" for _ in range(1000)), rate=1 / 3600, stop=stop)
            await stopping
            return report

    assert asyncio.run(run()).messages == len(transport.sent) == 1
