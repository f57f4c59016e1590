"""`AsyncSender`: the shell for asyncio; what it does is in `sender`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from fanout import sender as sender_module
from fanout.model import Endpoint, check_payload
from fanout.report import Report, Tally
from fanout.sender import Copies, FanOut

_COPIES_A_TURN = 128
"""Copies between two turns of the event loop: a millisecond's worth."""


class AsyncSender(FanOut):
    """`Sender` for asyncio: the same arguments, guarantees and reports; nothing blocks the event loop."""

    _copies_this_turn = 0

    @cached_property
    def _waiting(self) -> asyncio.Lock:
        """An event loop has one callback a file descriptor: tasks wait for a full socket in turn."""
        return asyncio.Lock()

    async def send(self, payload: bytes, *, settle: float = 0.0) -> Report:
        """See `Sender.send`."""
        return await self.send_many((payload,), settle=settle)

    async def send_many(self, payloads: Iterable[bytes] | AsyncIterable[bytes], *, settle: float = 0.0) -> Report:
        """See `Sender.send_many`; `payloads` may be an async iterable."""
        self._open()
        tally = Tally()
        if isinstance(payloads, AsyncIterable):
            async for payload in payloads:
                await self._send_one(payload, tally)
        else:
            for payload in payloads:
                await self._send_one(payload, tally)
        if settle > 0:
            await asyncio.sleep(settle)
        return self._report(tally, settled=settle > 0)

    async def _send_one(self, payload: bytes, tally: Tally) -> None:
        data = check_payload(payload)
        copies = Copies(self._transport, data, await self.resolve())
        while not copies.step(_COPIES_A_TURN):
            if not copies.blocked:
                await asyncio.sleep(0)
                continue
            async with self._waiting:
                if not await _async_wait_writable(copies.fileno()):
                    copies.give_up()
        self._count(copies, tally)
        self._copies_this_turn += len(copies.endpoints)
        if self._copies_this_turn >= _COPIES_A_TURN:
            # A socket that is never full must not keep the loop from timers, signals and other tasks.
            self._copies_this_turn = 0
            await asyncio.sleep(0)

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
        self._close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _async_wait_writable(fileno: int | None) -> bool:
    if fileno is None:
        await asyncio.sleep(0)
        return True
    loop = asyncio.get_running_loop()
    writable: asyncio.Future[Any] = loop.create_future()

    def ready() -> None:
        if not writable.done():
            writable.set_result(None)

    loop.add_writer(fileno, ready)
    try:
        await asyncio.wait_for(writable, sender_module.STALL)
    except TimeoutError:
        return False
    finally:
        loop.remove_writer(fileno)
    return True
