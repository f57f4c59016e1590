"""Receivers that serve handlers, and both senders as one function that asks them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import pytest

import fanout
from fanout.model import Endpoint
from fanout.protocol.sending.receipt import Confirmation
from fanout.receiver.aio import AsyncReceiver
from fanout.receiver.sync import Receiver
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, give_turns

Handler = Callable[[fanout.Message], object]
AnyReceiver = Receiver | AsyncReceiver


class Served(NamedTuple):
    """A receiver that serves a handler; where it listens is known beyond its end."""

    receiver: fanout.Receiver
    address: Endpoint

    @property
    def stats(self) -> fanout.ReceiverStats:
        return self.receiver.stats


@contextmanager
def pods(*handlers: Handler, **settings: Any) -> Iterator[list[Served]]:
    """Receivers on one free port of 127.0.1.1, 127.0.1.2, ..., each with its handler, in threads."""
    served: list[Served] = []
    threads = []
    port = free_port()
    try:
        for number, handler in enumerate(handlers, 1):
            receiver = fanout.Receiver(port, host=f"127.0.1.{number}", **settings).open()
            served.append(Served(receiver, receiver.address))
            threads.append(threading.Thread(target=receiver.serve, args=(handler,)))
            threads[-1].start()
        yield served
    finally:
        for one in served:
            one.receiver.stop()
        for thread in threads:
            thread.join()
        for one in served:
            one.receiver.close()


@contextmanager
def serving_sync(handler: Handler, host: str | None = "127.0.0.1", **settings: Any) -> Iterator[fanout.Receiver]:
    with fanout.Receiver(0, host=host, **settings) as receiver:
        thread = threading.Thread(target=receiver.serve, args=(handler,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.stop()
            thread.join()


@contextmanager
def serving_async(handler: Handler, host: str | None = "127.0.0.1", **settings: Any) -> Iterator[fanout.AsyncReceiver]:
    """Serve in a thread with an event loop of its own; the handler is a coroutine function."""
    started = threading.Event()
    receiver = fanout.AsyncReceiver(0, host=host, **settings)
    loop = asyncio.new_event_loop()

    async def coroutine(message: fanout.Message) -> object:
        await give_turns()
        return handler(message)

    async def serve() -> None:
        async with receiver:
            started.set()
            await receiver.serve(coroutine)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(PATIENCE)
        yield receiver
    finally:
        stop(receiver)
        thread.join()
        loop.close()


def stop(receiver: AnyReceiver) -> None:
    """Stop a receiver that another thread serves."""
    if isinstance(receiver, fanout.Receiver):
        receiver.stop()
    else:
        assert receiver._loop is not None
        receiver._loop.call_soon_threadsafe(receiver.stop)


Serving = Callable[..., AbstractContextManager[AnyReceiver]]
SHELLS = pytest.mark.parametrize("serving", [serving_sync, serving_async], ids=["Receiver", "AsyncReceiver"])


def literal(receivers: list[Served]) -> str:
    return "".join(f"{receiver.address}," for receiver in receivers)


def ask_sync(service: str, work: str, *arguments: Any, sender: dict[str, Any] | None = None, **named: Any) -> Any:
    with fanout.Sender(service, **(sender or {})) as opened:
        if work == "query":
            query = opened.query(*arguments, **named)
            return query.gather(), query.confirmation
        return getattr(opened, work)(*arguments, **named)


def ask_async(service: str, work: str, *arguments: Any, sender: dict[str, Any] | None = None, **named: Any) -> Any:
    async def run() -> Any:
        async with fanout.AsyncSender(service, **(sender or {})) as opened:
            if work == "query":
                query = opened.query(*arguments, **named)
                return await query.gather(), query.confirmation
            return await getattr(opened, work)(*arguments, **named)

    return asyncio.run(run())


Ask = Callable[..., Any]


def by_status(confirmation: Confirmation) -> dict[str, list[Endpoint]]:
    found: dict[str, list[Endpoint]] = {}
    for receipt in confirmation.receipts:
        found.setdefault(receipt.status, []).append(receipt.endpoint)
    return found
