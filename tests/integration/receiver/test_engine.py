"""When a receiver says that a message was handled, that it failed, and why: whatever handlers and iterations do."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

import fanout
from fanout.model import Message
from fanout.protocol.frame import AnswerStatus
from fanout.receiver.aio import AsyncReceiver
from fanout.receiver.core.stats import ReceiverStats
from fanout.receiver.sync import Receiver
from tests.support.frame_client import Asker, asking
from tests.support.handler_pods import SHELLS, Serving, serving_sync
from tests.support.waiting import PATIENCE


class Unprintable(Exception):
    def __str__(self) -> str:
        raise self


class Talkative(Exception):
    def __str__(self) -> str:
        return "two\nlines\x1b[31m\ud800 " + "x" * 10_000


@SHELLS
def test_errors_and_replies_that_cannot_be_told(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    def handler(message: Message) -> object:
        match message.payload:
            case b"unprintable":
                raise Unprintable
            case b"talkative":
                raise Talkative
            case b"huge":
                return bytes(17 * 2**20)
            case b"released":
                view = memoryview(b"x")
                view.release()
                return view
        return message.payload

    expected = [
        (b"unprintable", b"Unprintable: it cannot be printed"),
        (b"talkative", b"Talkative: two lines?[31m? xxxx"),
        (b"huge", b"reply must be at most 16,777,216 bytes; got 17,825,792"),
        (b"released", b"ValueError: operation forbidden on released memoryview object"),
    ]
    with serving(handler) as receiver, asking(receiver.address) as asker:
        for number, (payload, why) in enumerate(expected, 1):
            asker.query(number, payload)
            answer = asker.answer()
            assert answer.status is AnswerStatus.FAILED
            assert answer.detail.startswith(why)
            assert len(answer.detail) < 600
        asker.query(9, b"ping")
        assert asker.hear().payload == b"ping"  # type: ignore[union-attr]
        assert (receiver.stats.failed, receiver.stats.handler_errors, receiver.stats.confirmed) == (4, 4, 0)
    lines = [line for line in caplog.messages if line.startswith("handler_failed")]
    for line, (_, why) in zip(lines, expected, strict=True):
        assert why.decode() in line
        assert "\n" not in line


# When a message counts as handled.


def test_a_message_is_confirmed_when_the_next_one_is_asked_for() -> None:
    with Receiver(0, host="127.0.0.1") as receiver, asking(receiver.address) as asker:
        asker.ask(1, b"a")
        asker.ask(2, b"b")
        messages = iter(receiver)
        assert next(messages).payload == b"a"
        assert asker.is_quiet()
        assert next(messages).payload == b"b"
        assert asker.status(1) is AnswerStatus.CONFIRMED
        asker.query(3, b"c")
        query = next(messages)
        assert asker.status(2) is AnswerStatus.CONFIRMED
        assert query.wants_reply
        asker.send(b"plain")
        plain = next(messages)
        answer = asker.answer()
        assert (answer.number, answer.status, answer.detail) == (3, AnswerStatus.FAILED, b"the handler did not reply")
        with pytest.raises(fanout.InvalidInput, match="answered before"):
            query.reply(b"late")
        assert (plain.gap, plain.wants_reply) == (0, False)
        with pytest.raises(fanout.InvalidInput, match="cannot reply: the message is not a query"):
            plain.reply(b"x")


def test_a_message_out_of_which_was_broken_is_confirmed_by_the_next_iteration() -> None:
    with Receiver(0, host="127.0.0.1") as receiver, asking(receiver.address) as asker:
        asker.ask(1, b"a")
        for _ in receiver:
            break
        assert asker.is_quiet()
        asker.ask(2, b"b")
        assert next(iter(receiver)).payload == b"b"
        assert asker.status(1) is AnswerStatus.CONFIRMED
        asker.query(3, b"c")
        assert [message.payload for message in next(receiver.batches())] == [b"c"]
        assert asker.status(2) is AnswerStatus.CONFIRMED
        asker.ask(4, b"d")
        assert next(iter(receiver)).payload == b"d"
        assert asker.status(3) is AnswerStatus.FAILED
        receiver.close()
        assert_closed(asker, 4)


def assert_closed(asker: Asker, *numbers: int) -> None:
    answers = [asker.answer() for _ in numbers]
    assert [(answer.number, answer.status, answer.detail) for answer in answers] == [
        (number, AnswerStatus.FAILED, b"the receiver was closed") for number in numbers
    ]
    assert asker.is_quiet()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_not_handed_over_is_failed_and_counted_at_close(workers: int) -> None:
    with (
        Receiver(0, host="127.0.0.1", workers=workers) as receiver,
        asking(receiver.address) as asker,
    ):
        for number in range(1, 51):
            asker.ask(number, b"x")
        messages = iter(receiver)
        next(messages)
        next(messages)
        assert asker.status(1) is AnswerStatus.CONFIRMED
        receiver.close()
        assert_closed(asker, *range(2, 51))
        receiver.close()
    stats = receiver.stats
    assert (stats.queue_depth, stats.queue_drops, stats.datagrams, stats.confirmed, stats.failed) == (0, 48, 50, 1, 49)
    assert list(messages) == []


def close_by_another_thread(workers: int, *, returns_first: bool) -> ReceiverStats:
    """Close a receiver whose handler has not returned, or returns in this very moment; 100 messages are asked for."""
    entered, go_on = threading.Event(), threading.Event()

    def handler(message: Message) -> None:
        entered.set()
        go_on.wait(PATIENCE)

    with serving_sync(handler, workers=workers) as receiver, asking(receiver.address) as asker:
        asker.ask(1, b"x")
        assert entered.wait(PATIENCE)
        for number in range(2, 101):
            asker.ask(number, b"x")
        receiver.stop()
        if returns_first:
            go_on.set()
        receiver.close()
        go_on.set()
        answers = {answer.number: answer for answer in (asker.answer() for _ in range(100))}
        assert set(answers) == set(range(1, 101))
        assert {answer.detail for answer in answers.values()} <= {b"the receiver was closed", b""}
        return receiver.stats


@pytest.mark.parametrize("workers", [1, 2])
def test_close_by_another_thread_while_the_handler_runs(workers: int) -> None:
    stats = close_by_another_thread(workers, returns_first=False)
    assert (stats.datagrams, stats.confirmed, stats.failed, stats.queue_drops) == (100, 0, 100, 99)


@pytest.mark.parametrize("workers", [1, 2])
def test_close_by_another_thread_while_messages_change_hands(workers: int) -> None:
    """Whatever the other thread does in that moment, whoever asks is told."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(10):
            stats = close_by_another_thread(workers, returns_first=True)
            assert (stats.datagrams, stats.confirmed + stats.failed) == (100, 100)
            assert stats.queue_drops >= stats.failed - 1
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_async_iteration_that_was_broken_out_of(workers: int) -> None:
    async def run() -> None:
        async with AsyncReceiver(0, host="127.0.0.1", workers=workers) as receiver:
            with asking(receiver.address) as asker:
                for number in range(1, 51):
                    asker.ask(number, b"x")
                async for _ in receiver:
                    break
                async for _ in receiver:
                    break
                assert asker.status(1) is AnswerStatus.CONFIRMED
                await anext(receiver.batches())
                assert asker.status(2) is AnswerStatus.CONFIRMED
                asker.ask(51, b"x")
                await receiver.close()
                answers = [asker.answer() for _ in range(49)]
                assert {(answer.status, answer.detail) for answer in answers} == {
                    (AnswerStatus.FAILED, b"the receiver was closed")
                }
                assert {answer.number for answer in answers} == set(range(3, 52))
        assert receiver.stats.failed == 49
        assert receiver.stats.queue_drops > 0

    asyncio.run(run())


def test_who_iterates_may_say_that_a_message_failed() -> None:
    with Receiver(0, host="127.0.0.1") as receiver, asking(receiver.address) as asker:
        asker.ask(1, b"a")
        messages = iter(receiver)
        receiver.handler_failed(next(messages), OSError("disk full"))
        answer = asker.answer()
        assert (answer.status, answer.detail) == (AnswerStatus.FAILED, b"OSError: disk full")
        asker.ask(2, b"b")
        assert next(messages).payload == b"b"
        assert asker.is_quiet(), "it has failed, and is not confirmed"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_is_confirmed_when_the_next_one_is_asked_for(workers: int) -> None:
    with Receiver(0, host="127.0.0.1", workers=workers) as receiver, asking(receiver.address) as asker:
        asker.ask(1, b"a")
        batches = receiver.batches()
        assert [message.payload for message in next(batches)] == [b"a"]
        assert asker.is_quiet()
        asker.send(b"plain")
        next(batches)
        assert asker.status(1) is AnswerStatus.CONFIRMED


def test_an_async_batch_is_confirmed_when_the_next_one_is_asked_for() -> None:
    async def run() -> None:
        async with AsyncReceiver(0, host="127.0.0.1") as receiver:
            with asking(receiver.address) as asker:
                asker.ask(1, b"a")
                batches = receiver.batches()
                assert [message.payload for message in await anext(batches)] == [b"a"]
                assert asker.is_quiet()
                asker.send(b"plain")
                await anext(batches)
                assert asker.status(1) is AnswerStatus.CONFIRMED

    asyncio.run(run())
