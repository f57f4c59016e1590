"""Streams of both senders: coalesced, paced, cancelled, stopped, closed."""

from __future__ import annotations

import asyncio
import contextlib
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
from tests.support.senders import Calls, Shell, Stuck, full_socket
from tests.support.waiting import give_turns, until, until_async


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
