"""`AsyncReceiver` and its event loop."""

from __future__ import annotations

import asyncio

import pytest

from fanout.model import Message
from fanout.receiver.aio import AsyncReceiver
from tests.support.datagrams import FLOOD, send_to
from tests.support.waiting import Turns, give_turns

NUMBERED = [b"%d" % number for number in range(FLOOD)]


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_async_serve(is_coroutine: bool, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[bytes] = []
    receiver = AsyncReceiver(0)

    def function(message: Message) -> None:
        seen.append(message.payload)
        if message.payload == b"bad":
            raise ValueError("bad payload")
        if message.payload == b"2":
            receiver.stop()

    async def coroutine(message: Message) -> None:
        await give_turns()
        function(message)

    async def run() -> int:
        async with receiver:
            send_to(receiver.address.port, [b"1", b"bad", b"2"])
            await receiver.serve(coroutine if is_coroutine else function)
            return receiver.stats.handler_errors

    assert asyncio.run(run()) == 1
    assert seen == [b"1", b"bad", b"2"]


def test_a_consumer_that_never_awaits_leaves_the_loop_its_turn() -> None:
    async def run() -> int:
        async with AsyncReceiver(0) as receiver:
            send_to(receiver.address.port, NUMBERED)
            async with Turns() as turns:
                async for message in receiver:
                    if message.payload == NUMBERED[-1]:
                        return turns.count
        raise AssertionError

    assert asyncio.run(run()) >= FLOOD // 32


@pytest.mark.parametrize("workers", [1, 2])
def test_stop_ends_a_waiting_async_iteration(workers: int) -> None:
    async def run() -> list[list[Message]]:
        async with AsyncReceiver(0, workers=workers) as receiver:
            asyncio.get_running_loop().call_soon(receiver.stop)
            return [batch async for batch in receiver.batches()]

    assert asyncio.run(run()) == []


def test_async_batches_go_on_where_messages_were_broken_out_of() -> None:
    payloads = [b"%d" % number for number in range(100)]

    async def run() -> list[bytes]:
        async with AsyncReceiver(0) as receiver:
            send_to(receiver.address.port, payloads)
            got: list[bytes] = []
            async for message in receiver:
                got.append(message.payload)
                break
            async for batch in receiver.batches():
                got += [message.payload for message in batch]
                if len(got) == 100:
                    return got
        raise AssertionError

    assert asyncio.run(run()) == payloads


def test_an_async_iteration_inside_another_loses_nothing() -> None:
    payloads = [b"%d" % number for number in range(100)]

    async def run() -> list[bytes]:
        got: list[bytes] = []
        async with AsyncReceiver(0) as receiver:
            send_to(receiver.address.port, payloads)
            async for outer in receiver:
                got.append(outer.payload)
                async for inner in receiver:
                    got.append(inner.payload)
                    break
                if len(got) == len(payloads):
                    return got
        raise AssertionError

    assert asyncio.run(run()) == payloads


@pytest.mark.parametrize("workers", [1, 2])
def test_an_async_receiver_goes_on_in_the_next_event_loop(workers: int) -> None:
    """Whether it was broken out of or only opened in the first one, and whether that is closed or not."""
    receiver = AsyncReceiver(0, host="127.0.0.1", workers=workers)

    async def first(payload: bytes) -> bytes:
        await receiver.open()
        # Once the iteration waits.
        asyncio.get_running_loop().call_soon(send_to, receiver.address.port, [payload])
        async for message in receiver:
            return message.payload
        raise AssertionError

    async def end() -> list[list[Message]]:
        asyncio.get_running_loop().call_soon(receiver.stop)
        return [batch async for batch in receiver.batches()]

    loop = asyncio.new_event_loop()
    for number in range(3):
        assert asyncio.run(first(b"a%d" % number)) == b"a%d" % number
        assert loop.run_until_complete(first(b"b%d" % number)) == b"b%d" % number
    assert asyncio.run(end()) == []
    loop.run_until_complete(loop.shutdown_asyncgens())  # of the iterations that were broken out of
    loop.close()


def test_an_async_receiver_stops_after_its_event_loop_ended() -> None:
    receiver = AsyncReceiver(0, host="127.0.0.1")
    asyncio.run(receiver.open())
    send_to(receiver.address.port, [b"x"])
    receiver.stop()
    assert receiver.stats.datagrams == 1


def test_a_busy_async_consumer_of_batches_leaves_the_loop_its_turn() -> None:
    async def run() -> tuple[int, int]:
        async with AsyncReceiver(0) as receiver:
            got = batches = 0
            async with Turns() as turns:
                send_to(receiver.address.port, NUMBERED)
                async for batch in receiver.batches():
                    got += len(batch)
                    batches += 1
                    if got >= 5 * FLOOD:
                        return batches, turns.count
                    send_to(receiver.address.port, NUMBERED)
        raise AssertionError

    batches, turns = asyncio.run(run())
    assert batches >= 5
    assert turns >= batches - 1
