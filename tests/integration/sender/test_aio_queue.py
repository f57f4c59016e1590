"""What the tasks of an event loop send together, and what becomes of it when one is cancelled."""

from __future__ import annotations

import asyncio
import errno

import fanout
from fanout.report import Report
from fanout.sender.aio import AsyncSender
from fanout.testing import MemoryTransport
from tests.support.senders import B, Calls
from tests.support.waiting import PATIENCE, Turns, give_turns


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
