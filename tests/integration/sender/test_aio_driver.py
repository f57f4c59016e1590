"""A flow in an event loop: what it waits for is awaited, and what goes wrong meanwhile is raised in the flow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from fanout.errors import Closed
from fanout.model import Endpoint, Service
from fanout.protocol.sending.receipt import Reply
from fanout.sender.aio_driver import AioDriver
from fanout.sender.aio_queue import AioQueue, Queued
from fanout.sender.engine import Engine, Framing
from fanout.sender.steps import Sleep, WaitWritable
from fanout.testing import MemoryTransport, ScriptedResolver
from tests.support.waiting import give_turns

if TYPE_CHECKING:
    from fanout.sender.steps import Flow, Step

POD = Endpoint("10.0.0.1", 12000)
REPLY = Reply(POD, b"pong", 0.001)


async def nothing(batch: list[Queued]) -> None:
    """Send nothing: no message is queued here."""


@asynccontextmanager
async def driving(max_datagram: int | None = None) -> AsyncIterator[AioDriver]:
    """Yield a driver for this event loop."""
    loop = asyncio.get_running_loop()
    framing = Framing(max_datagram=max_datagram)
    engine = Engine(Service(str(POD), 12000), ScriptedResolver(str(POD)), MemoryTransport(), framing)
    driver = AioDriver(loop, engine, AioQueue(loop, nothing))
    try:
        yield driver
    finally:
        driver.close()


def flow(*steps: Step, got: list[object]) -> Flow:
    """Yield the steps; record what each brought, and how it ended."""
    try:
        for step in steps:
            is_done = yield step
            got.append(is_done)
    except BaseException as error:
        got.append(type(error))
        raise


def run(*steps: Step) -> tuple[list[Reply | None], list[object]]:
    """Run a flow to its end; return what each run returned, and what the flow got."""
    got: list[object] = []
    returned: list[Reply | None] = []

    async def main() -> None:
        async with driving() as driver:
            begun = flow(*steps, got=got)
            while (reply := await driver.run(begun)) is not None:
                returned.append(reply)
                got.append("passed on")

    asyncio.run(main())
    return returned, got


def test_a_flow_without_steps_ends() -> None:
    assert run() == ([], [])


def test_each_step_is_awaited_and_replies_are_passed_on() -> None:
    """A transport in memory is never full: it has no descriptor to wait on."""
    returned, got = run(Sleep(0.0), WaitWritable(POD, 1.0), REPLY, Sleep(0.0))
    assert returned == [REPLY]
    assert got == [True, True, "passed on", None, True]


def test_a_cancelled_wait_is_raised_in_the_flow() -> None:
    got: list[object] = []

    async def main() -> None:
        async with driving() as driver:
            task = asyncio.ensure_future(driver.run(flow(Sleep(3600.0), got=got)))
            await give_turns()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert got == [asyncio.CancelledError]


def test_an_error_of_the_flow_comes_out_of_the_run() -> None:
    def failing() -> Iterator[Any]:
        yield Sleep(0.0)
        raise Closed("it was closed")

    async def main() -> None:
        async with driving() as driver:
            with pytest.raises(Closed, match="it was closed"):
                await driver.run(failing())  # type: ignore[arg-type]

    asyncio.run(main())


@pytest.mark.parametrize("max_datagram", [None, 1200])
def test_only_frames_have_to_leave_in_order(max_datagram: int | None) -> None:
    async def main() -> bool:
        async with driving(max_datagram) as driver, driver.in_order():
            return driver.queue.order.locked()

    assert asyncio.run(main()) is (max_datagram is not None)
