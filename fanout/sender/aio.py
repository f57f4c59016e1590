"""`AsyncSender`: the shell for asyncio; what it does is in `engine` and `confirming`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from itertools import groupby
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, overload

from fanout.errors import FanoutError, InvalidInput
from fanout.model import Endpoint
from fanout.protocol.sending.pacer import BURST, Pacer
from fanout.report import Fault, Report, Tally
from fanout.sender import engine
from fanout.sender.aio_queue import SENDS_A_TURN, AioQueue, Call, Queued, set_done
from fanout.sender.coalescer import BATCH, DELAY
from fanout.sender.confirming import Confirming
from fanout.sender.engine import Copies, check_stream, make_pacer
from fanout.sender.sync import TIMEOUT

if TYPE_CHECKING:
    from fanout.protocol.sending.exchange import Exchange
    from fanout.protocol.sending.receipt import Confirmation, Reply
    from fanout.sender.confirming import OnReceipt


class AsyncSender(Confirming):
    """`Sender` for asyncio: the same arguments, guarantees and reports; nothing blocks the event loop.

    What several tasks send in one turn of the event loop leaves together, as runs of equal sizes where the kernel
    can (GSO). The first message of a turn leaves at once. A task that is cancelled while its messages are queued
    takes them back.
    """

    _outbox_of_loop: AioQueue | None = None

    @property
    def _outbox(self) -> AioQueue:
        loop = asyncio.get_running_loop()
        if self._outbox_of_loop is None or self._outbox_of_loop.loop is not loop:
            self._outbox_of_loop = AioQueue(loop, self._send_batch)
        return self._outbox_of_loop

    @overload
    async def send(self, payload: bytes, *, settle: float = 0.0, confirm: Literal[False] = False) -> Report: ...

    @overload
    async def send(
        self,
        payload: bytes,
        *,
        confirm: Literal[True],
        timeout: float = TIMEOUT,
        retries: int | None = None,
        on_receipt: OnReceipt = None,
    ) -> Confirmation: ...

    async def send(
        self,
        payload: bytes,
        *,
        settle: float = 0.0,
        confirm: bool = False,
        timeout: float = TIMEOUT,
        retries: int | None = None,
        on_receipt: OnReceipt = None,
    ) -> Report | Confirmation:
        """See `Sender.send`."""
        if confirm:
            exchange = await self._ask(payload, timeout, retries, on_receipt, is_query=False)
            async for _ in self._converse(exchange, on_receipt):
                pass
            return self._confirmation(exchange)
        data = self._check(payload)
        endpoints = self._open().known.endpoints
        outbox = self._outbox
        if self._is_large(data):
            tally = Tally()
            await self._send_large(data, tally)
        elif endpoints and outbox.may_send_now():
            tally = Tally()
            async with self._in_order():
                for copies in self._copies((data,), endpoints):
                    await self._finish(copies, outbox)
                    self._tell(tally, copies)
            await outbox.give_way(len(endpoints))
        else:
            call = Call()
            outbox.put(data, call)
            await call.wait()
            tally = call.tally
        return await self._settled(tally, settle)

    async def send_many(
        self,
        payloads: Iterable[bytes] | AsyncIterable[bytes],
        *,
        rate: float | None = None,
        bandwidth: float | None = None,
        burst: int = BURST,
        stop: asyncio.Event | None = None,
        settle: float = 0.0,
    ) -> Report:
        """See `Sender.send_many`; `payloads` may be an async iterable. One that is not must not block.

        The event loop's timers are not finer than a millisecond: a pace above some 100,000 messages a second keeps
        a core busy.
        """
        self._open()
        check_stream(payloads)
        call = Call()
        pacer = make_pacer(rate, bandwidth, burst)
        outbox = self._outbox
        flush_by = 0.0

        async def put(payload: bytes) -> bool:
            nonlocal flush_by
            data = self._check(payload)
            if pacer is not None:
                await _admitted(pacer, len(data), call, stop)
            if stop is not None and stop.is_set():
                return False
            if self._is_large(data):
                await call.wait()
                await self._send_large(data, call.tally)
                return True
            outbox.put(data, call)
            if call.queued >= BATCH or monotonic() >= flush_by:
                await call.wait()
                flush_by = monotonic() + DELAY
            return True

        try:
            try:
                if isinstance(payloads, AsyncIterable):
                    async for payload in payloads:
                        if not await put(payload):
                            break
                else:
                    for payload in payloads:
                        if not await put(payload):
                            break
            except Exception:
                await call.wait()
                raise
            except BaseException:
                call.is_cancelled = True
                raise
            await call.wait()
            self._close_stream()
        except FanoutError as error:
            error.report = self._report(call.tally)
            raise
        self._hear(call.tally)
        return await self._settled(call.tally, settle)

    async def _settled(self, tally: Tally, settle: float) -> Report:
        if settle > 0:
            await asyncio.sleep(settle)
            self._hear(tally)
        return self._report(tally)

    async def _send_batch(self, batch: list[Queued]) -> None:
        endpoints = await self.resolve()
        batch = [queued for queued in batch if not queued.call.is_cancelled]
        if not batch:
            return
        async with self._in_order():
            # One datagram a message: what has to be cut does not come here.
            (copies,) = self._copies([queued.payload for queued in batch], endpoints)
            await self._finish(copies, self._outbox)
        self._tell_calls(batch, copies)
        if self._transport.has_heard:
            self._hear(batch[0].call.tally)
        await asyncio.sleep(0)

    @staticmethod
    def _tell_calls(batch: list[Queued], copies: Copies) -> None:
        """Let each call know what became of its messages."""
        faults: dict[Call, list[Fault]] = {}
        for fault in copies.faults:
            faults.setdefault(batch[fault.message].call, []).append(fault)
        for call, group in groupby(batch, key=lambda queued: queued.call):
            sizes = [len(queued.payload) for queued in group]
            call.tally.attempted(copies.endpoints, sum(sizes), len(sizes))
            call.tally.dropped(faults.pop(call, ()))

    async def _send_large(self, payload: bytes, tally: Tally) -> None:
        endpoints = await self.resolve()
        async with self._in_order():
            for copies in self._copies([payload], endpoints):
                await asyncio.sleep(copies.pause)
                await self._finish(copies, self._outbox)
                self._tell(tally, copies)

    def _in_order(self) -> contextlib.AbstractAsyncContextManager[object]:
        """Hold what gives numbers in the order in which messages leave: a task's large message takes a while."""
        return self._outbox.order if self._is_framed else contextlib.nullcontext()

    def query(
        self,
        payload: bytes,
        *,
        timeout: float = TIMEOUT,
        retries: int | None = None,
        on_receipt: OnReceipt = None,
    ) -> AsyncQuery:
        """See `Sender.query`; the pods are asked when the iteration begins."""
        return AsyncQuery(self, payload, timeout, retries, on_receipt)

    async def _ask(
        self, payload: bytes, patience: float, retries: int | None, on_receipt: OnReceipt, *, is_query: bool
    ) -> Exchange:
        """Return an exchange whose first copies have left."""
        from fanout.sender.encoder import check_message, check_patience

        data = check_message(payload)
        check_patience(patience, retries, on_receipt)
        endpoints = await self.resolve()
        async with self._in_order():
            exchange = self._begin(data, endpoints, patience, retries, is_query=is_query)
            try:
                for copies in self._asking_now(exchange):
                    await self._finish(copies, self._outbox)
                    self._asked(exchange, copies)
            except BaseException:
                self._end(exchange)
                raise
        return exchange

    async def _converse(self, exchange: Exchange, on_receipt: OnReceipt) -> AsyncIterator[Reply]:
        """Yield replies, and send what is due, until the exchange is over."""
        outbox = self._outbox
        told = outbox.told[exchange.number] = asyncio.Event()
        try:
            while True:
                due, replies, is_over = self._turn(exchange, on_receipt)
                for copies in due:
                    await self._finish(copies, outbox)
                    self._asked(exchange, copies)
                for reply in replies:
                    yield reply
                if is_over:
                    self._end(exchange)
                    return
                outbox.listen(self._readable(), self._answers_came)
                with self._framing.answers:
                    wakeup, has_news = exchange.next_wakeup, exchange.has_news
                if not has_news:
                    timer = outbox.loop.call_later(wakeup - monotonic(), told.set)
                    await told.wait()
                    timer.cancel()
                told.clear()
        finally:
            outbox.told.pop(exchange.number)
            if not outbox.told:
                outbox.listen([], self._answers_came)
            self._abandon(exchange)

    def _answers_came(self) -> None:
        with self._framing.answers:
            exchanges = self._take_answers()
        for exchange in exchanges:
            if exchange.number in self._outbox.told:
                self._outbox.told[exchange.number].set()

    async def _finish(self, copies: Copies, outbox: AioQueue) -> None:
        while not self._step(copies, SENDS_A_TURN):
            if not copies.blocked:
                await asyncio.sleep(0)
            elif not await self._wait_writable(copies.next_endpoint, outbox):
                self._give_up(copies)
                return

    async def _wait_writable(self, endpoint: Endpoint, outbox: AioQueue) -> bool:
        """Wait until the socket has room; return False where it stayed full, raise `Closed` where it was closed."""
        async with outbox.waiting:
            descriptor = self._writable(endpoint)
            if descriptor is None:
                await asyncio.sleep(0)
                return True
            full = outbox.full = outbox.loop.create_future()
            outbox.loop.add_writer(descriptor, set_done, full)
            try:
                await asyncio.wait_for(full, engine.STALL)
            except TimeoutError:
                return False
            finally:
                outbox.full = None
                outbox.loop.remove_writer(descriptor)
                os.close(descriptor)
        self._open()
        return True

    async def resolve(self) -> tuple[Endpoint, ...]:
        """See `Sender.resolve`."""
        refresher = self._open()
        return refresher.known.endpoints or (await asyncio.to_thread(refresher.endpoints)).endpoints

    async def open(self) -> Self:
        """Start to resolve, and return at once."""
        self._open()
        return self

    async def close(self) -> None:
        """Stop to resolve and close the sockets. Closing twice is fine."""
        self._close_stream()
        outbox = self._outbox
        outbox.listen([], self._answers_came)
        self._close()
        if outbox.full is not None:
            set_done(outbox.full)
        for told in outbox.told.values():
            told.set()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncQuery:
    """`Query` for asyncio: `async for` over the replies, or `await gather()`."""

    def __init__(
        self,
        sender: AsyncSender,
        payload: bytes,
        timeout: float,
        retries: int | None,
        on_receipt: OnReceipt,
    ) -> None:
        self._sender = sender
        self._question = (payload, timeout, retries, on_receipt)
        self._exchange: Exchange | None = None
        self._replies = self._ask()

    async def _ask(self) -> AsyncIterator[Reply]:
        payload, timeout, retries, on_receipt = self._question
        self._exchange = await self._sender._ask(payload, timeout, retries, on_receipt, is_query=True)
        self._sender._end_with(self, self._exchange)
        async for reply in self._sender._converse(self._exchange, on_receipt):
            yield reply

    def __aiter__(self) -> AsyncIterator[Reply]:
        return self._replies

    async def gather(self) -> list[Reply]:
        """Return all replies that have not been taken yet, once the last has come or the time is up."""
        return [reply async for reply in self._replies]

    @property
    def confirmation(self) -> Confirmation:
        """What is known of each pod: those that may still reply are silent. Raises `InvalidInput` before that."""
        if self._exchange is None:
            raise InvalidInput("nobody was asked yet: iterate over the query first")
        return self._sender._confirmation(self._exchange)


async def _admitted(pacer: Pacer, size: int, call: Call, stop: asyncio.Event | None) -> None:
    """Wait until the pace lets a message of `size` bytes leave, or `stop` is set."""
    while not pacer.admit(now := monotonic(), size):
        await call.wait()
        seconds = pacer.wait(now, size)
        if seconds < DELAY:
            # A timer would end too late only where less than two of its ticks fit into the bucket.
            seconds = DELAY if pacer.slack(size) > 1.5 * DELAY else 0.0
        if stop is None:
            await asyncio.sleep(seconds)
        else:
            try:
                await asyncio.wait_for(stop.wait(), seconds)
            except TimeoutError:
                continue
            return
