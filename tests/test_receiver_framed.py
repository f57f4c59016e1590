"""Receivers and those who ask them, over loopback sockets: who is told what, when, and by which address."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

import fanout
from fanout.async_receiver import AsyncReceiver
from fanout.model import Message
from fanout.receiver import Receiver, ReceiverBase
from fanout.wire.frame import ReplyFragment, Status
from tests.asker import asking

Handler = Callable[[Message], object]
Serving = Callable[..., AbstractContextManager[ReceiverBase]]


@contextmanager
def serving_sync(handler: Handler, **settings: object) -> Iterator[Receiver]:
    with Receiver(0, host="127.0.0.1", **settings) as receiver:  # type: ignore[arg-type]
        thread = threading.Thread(target=receiver.serve, args=(handler,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.stop()
            thread.join()


@contextmanager
def serving_async(handler: Handler, **settings: object) -> Iterator[AsyncReceiver]:
    started = threading.Event()
    receiver = AsyncReceiver(0, host="127.0.0.1", **settings)  # type: ignore[arg-type]
    loop = asyncio.new_event_loop()

    async def coroutine(message: Message) -> object:
        await asyncio.sleep(0)
        return handler(message)

    async def serve() -> None:
        async with receiver:
            started.set()
            await receiver.serve(coroutine)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        started.wait(5)
        yield receiver
    finally:
        loop.call_soon_threadsafe(receiver.stop)
        thread.join()
        loop.close()


SHELLS = pytest.mark.parametrize("serving", [serving_sync, serving_async], ids=["Receiver", "AsyncReceiver"])


@SHELLS
@pytest.mark.parametrize("workers", [1, 2])
def test_a_message_is_confirmed_after_its_handler_and_handed_over_once(serving: Serving, workers: int) -> None:
    seen: list[bytes] = []
    entered, go_on = threading.Event(), threading.Event()

    def handler(message: Message) -> None:
        seen.append(message.payload)
        entered.set()
        go_on.wait(5)

    with serving(handler, workers=workers) as receiver, asking(receiver.address) as asker:
        asker.ask(1, b"reload")
        assert entered.wait(5)
        asker.ask(1, b"reload", attempt=1)
        if workers == 1:
            assert asker.is_quiet(), "the only thread is in the handler"
            expected = {0: Status.CONFIRMED, 1: Status.CONFIRMED}
        else:
            assert asker.status(1) is Status.PENDING
            expected = {0: Status.CONFIRMED}
        go_on.set()
        heard = [asker.answer() for _ in expected]
        assert {answer.attempt: answer.status for answer in heard} == expected
        asker.ask(1, b"reload", attempt=2)
        assert asker.status(1) is Status.CONFIRMED
        assert (receiver.stats.confirmed, receiver.stats.datagrams) == (1, 1)
    assert seen == [b"reload"]


@SHELLS
def test_failures_and_replies(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    def handler(message: Message) -> object:
        match message.payload:
            case b"bad":
                raise ValueError("bad payload")
            case b"wrong":
                return 7
            case b"replies":
                assert message.wants_reply
                message.reply(b"by itself")
                assert not message.wants_reply
                with pytest.raises(fanout.InvalidInput, match="answered before"):
                    message.reply(b"again")
                return b"ignored"
            case b"text":
                message.reply("text")  # type: ignore[arg-type]
            case b"nothing":
                return None
        return message.payload.upper()

    with serving(handler) as receiver, asking(receiver.address) as asker:
        expected: list[tuple[bytes, object]] = [
            (b"bad", b"ValueError: bad payload"),
            (b"wrong", b"handler returned int, not bytes"),
            (b"text", b"InvalidInput: a reply is bytes, not str: encode it first"),
            (b"ping", b"PING"),
            (b"replies", b"by itself"),
            (b"nothing", b""),
        ]
        for number, (payload, answer) in enumerate(expected, 1):
            asker.query(number, payload)
            heard = asker.hear()
            if isinstance(heard, ReplyFragment):
                assert (heard.number, heard.asker, heard.payload) == (number, asker.sender, answer)
            else:
                assert (heard.status, heard.detail) == (Status.FAILED, answer)  # type: ignore[union-attr]
        asker.query(4, b"ping")
        assert asker.hear().payload == b"PING"  # type: ignore[union-attr]
        asker.ask(10, b"wrong")
        assert asker.status(10) is Status.CONFIRMED, "what a handler returns matters only where a reply is wanted"
        assert (receiver.stats.failed, receiver.stats.replied, receiver.stats.confirmed) == (3, 3, 1)
        assert receiver.stats.handler_errors == 3
