"""Both senders as one function, and transports in memory that show what they do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import fanout
from fanout.discovery.core.answer import DnsAnswer
from fanout.model import Endpoint
from fanout.protocol.sending.batch import Batch
from fanout.report import Report
from fanout.sender.aio import AsyncSender
from fanout.sender.sync import Sender
from fanout.testing import MemoryTransport, ScriptedResolver
from tests.support.waiting import until

A, B, C = (Endpoint(f"10.0.0.{number}", 12000) for number in (1, 2, 3))
Shell = Callable[..., Report]


def send_sync(
    service: str | fanout.Service,
    payloads: Iterable[bytes],
    settle: float = 0.0,
    pace: dict[str, Any] | None = None,
    **settings: Any,
) -> Report:
    with Sender(service, **settings) as sender:
        return sender.send_many(payloads, settle=settle, **(pace or {}))


def send_async(
    service: str | fanout.Service,
    payloads: Iterable[bytes],
    settle: float = 0.0,
    pace: dict[str, Any] | None = None,
    **settings: Any,
) -> Report:
    async def run() -> Report:
        async with AsyncSender(service, **settings) as sender:
            return await sender.send_many(payloads, settle=settle, **(pace or {}))

    return asyncio.run(run())


@contextlib.contextmanager
def full_socket() -> Iterator[socket.socket]:
    """Yield a socket that has no room, and gets none."""
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while left.send(bytes(65_536)):
                pass
        yield left


class LaterResolver(ScriptedResolver):
    """Gives its first answer at once, and those after it when `is_time`."""

    def __init__(self, is_time: Callable[[], object], *script: str | Exception) -> None:
        super().__init__(*script, dns_ttl=0.0)
        self._is_time = is_time

    def resolve(self) -> DnsAnswer:
        if self.asked:
            until(self._is_time)
        return super().resolve()


class Stuck(MemoryTransport):
    """A socket that never becomes writable after two copies."""

    def __init__(self, fileno: int) -> None:
        super().__init__(room=[2, *[0] * 1000])
        self._fileno = fileno

    def fileno(self, endpoint: Endpoint) -> int | None:
        return self._fileno


class Calls(MemoryTransport):
    """Keeps which payloads left in one call."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.calls: list[list[bytes]] = []

    def send(self, payload: bytes, *arguments: Any) -> int:
        self.calls.append([payload])
        return super().send(payload, *arguments)

    def send_batch(self, batch: Batch, *arguments: Any) -> int:
        self.calls.append(list(batch.payloads))
        return super().send_batch(batch, *arguments)
