"""`AsyncSender` and its event loop: others have their turn, and a task may be cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

import fanout
from fanout.discovery.core.answer import DnsAnswer
from fanout.report import Report
from fanout.sender.aio import AsyncSender
from fanout.testing import MemoryTransport
from tests.support.pods import Pod
from tests.support.waiting import Turns, give_turns, until_async


def test_many_tasks_share_a_full_socket(pods: Callable[..., list[Pod]]) -> None:
    (pod,) = pods(1)

    async def run() -> list[Report]:
        async with AsyncSender(str(pod.endpoint)) as sender:
            return await asyncio.gather(*(sender.send(b"%d" % number) for number in range(200)))

    reports = asyncio.run(run())
    assert all(report.complete for report in reports)
    assert sorted(int(payload) for payload in pod.waiting(200)) == list(range(200))


def test_a_stream_leaves_the_event_loop_its_turn(pods: Callable[..., list[Pod]]) -> None:
    (pod,) = pods(1)

    async def run() -> int:
        async with AsyncSender(str(pod.endpoint)) as sender:
            await sender.resolve()
            async with Turns() as turns:
                await sender.send_many(b"x" for _ in range(5000))
                return turns.count

    assert asyncio.run(run()) >= 5000 // 256


def test_one_message_to_many_pods_leaves_the_event_loop_its_turn() -> None:
    transport = MemoryTransport()
    service = ",".join(f"10.0.{number // 250}.{number % 250 + 1}" for number in range(1000))

    async def run() -> int:
        async with AsyncSender(service, transport=transport) as sender:
            await sender.resolve()
            async with Turns() as turns:
                assert (await sender.send(b"x")).complete
                return turns.count

    assert asyncio.run(run()) >= 1000 // 128
    assert len(set(transport.attempted)) == len(transport.attempted) == 1000


@pytest.mark.parametrize("pods", [1, 128, 300])
def test_one_task_that_sends_and_sends_leaves_the_event_loop_its_turn(pods: int) -> None:
    service = ",".join(f"10.0.{number // 250}.{number % 250 + 1}" for number in range(pods)) + ","

    async def run() -> int:
        async with AsyncSender(service, transport=MemoryTransport()) as sender:
            await sender.resolve()
            async with Turns() as turns:
                for _ in range(200):
                    await sender.send(b"x")
                return turns.count

    assert asyncio.run(run()) >= 200 * pods // 128


def test_async_iterables(pods: Callable[..., list[Pod]]) -> None:
    (pod,) = pods(1)

    async def payloads() -> AsyncIterator[bytes]:
        for number in range(3):
            await give_turns()
            yield b"%d" % number

    async def run() -> Report:
        async with AsyncSender(str(pod.endpoint)) as sender:
            assert await sender.resolve() == (pod.endpoint,)
            return await sender.send_many(payloads())

    assert asyncio.run(run()).messages == 3
    assert pod.waiting(3) == [b"0", b"1", b"2"]


def test_a_closed_async_sender() -> None:
    async def run() -> None:
        sender = AsyncSender("10.0.0.1", transport=MemoryTransport())
        await sender.send(b"x")
        await sender.close()
        await sender.close()
        with pytest.raises(fanout.Closed):
            await sender.send(b"x")

    asyncio.run(run())


def test_cancelling_while_dns_is_silent() -> None:
    asked, released = threading.Event(), threading.Event()

    class Hanging:
        def resolve(self) -> DnsAnswer:
            asked.set()
            released.wait()
            return DnsAnswer(())

    async def run() -> None:
        async with AsyncSender("headless-udp", resolver=Hanging()) as sender:
            sending = asyncio.create_task(sender.send(b"x"))
            await until_async(asked.is_set)
            await give_turns()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending

    asyncio.run(run())
    released.set()
