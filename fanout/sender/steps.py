"""The steps of a sender's flow: the copies to send, and what it waits for.

A flow is a generator that yields a step and goes on once it is done: `sync` blocks for it, `aio` awaits it.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fanout.protocol.sending.batch import Batch
from fanout.report import Fault

if TYPE_CHECKING:
    from fanout.model import Endpoint
    from fanout.protocol.sending.exchange import Exchange
    from fanout.protocol.sending.receipt import Reply
    from fanout.sender.confirming import ExchangeTable


class Sleep(NamedTuple):
    """Wait for `seconds`; 0 yields to others."""

    seconds: float


class WaitWritable(NamedTuple):
    """Wait until a copy to `endpoint` can be attempted; the flow is sent False after `seconds`."""

    endpoint: Endpoint
    seconds: float


class WaitReadable(NamedTuple):
    """Wait until the exchange has news, or something is due; meanwhile dispatch answers to the table's exchanges."""

    exchange: Exchange
    table: ExchangeTable


if TYPE_CHECKING:
    Step = Sleep | WaitWritable | WaitReadable | Reply
    """A `Reply` is passed to the caller."""
    Flow = Generator[Step, bool, None]


class Copies:
    """The copies of some datagrams: what is still to be attempted, and what failed.

    Those before `position` were attempted. `is_blocked` says whether the socket is full.
    """

    __slots__ = (
        "batch",
        "endpoints",
        "faults",
        "is_blocked",
        "messages",
        "pause",
        "payloads",
        "position",
        "size",
        "total",
    )

    def __init__(
        self,
        payloads: Sequence[bytes],
        endpoints: tuple[Endpoint, ...],
        gso_limit: int = 0,
        position: int = 0,
        faults: list[Fault] | None = None,
        *,
        messages: int | None = None,
        size: int | None = None,
        pause: float = 0.0,
    ) -> None:
        self.payloads: Sequence[bytes] = payloads
        self.batch: Batch | None = Batch(payloads, gso_limit) if len(payloads) != 1 else None
        """None for a single datagram: positions are then those of the endpoints."""
        self.endpoints: tuple[Endpoint, ...] = endpoints
        self.faults: list[Fault] = faults or []
        self.is_blocked: bool = False
        self.position: int = position
        self.total: int = len(payloads) * len(endpoints)
        self.size: int = sum(map(len, payloads)) if size is None else size
        """Bytes of payload, each message counted once."""
        self.messages: int = len(payloads) if messages is None else messages
        """Messages that begin with these datagrams."""
        self.pause: float = pause
        """Seconds to wait before they are sent."""

    def after(self, sends: int) -> int:
        """Return the position after about N more sends."""
        if self.batch is None:
            return min(self.total, self.position + sends)
        return self.batch.after(self.position, len(self.endpoints), sends)

    @property
    def next_endpoint(self) -> Endpoint:
        """The endpoint of the first copy that was not attempted."""
        return self.endpoints[self._at(self.position)[1]]

    def give_up(self) -> None:
        """Record the copies not attempted as dropped: the socket stayed full."""
        for position in range(self.position, self.total):
            message, pod = self._at(position)
            self.faults.append(Fault(self.endpoints[pod], errno.EAGAIN, message))
        self.position = self.total

    def _at(self, position: int) -> tuple[int, int]:
        return (0, position) if self.batch is None else self.batch.copy_at(position, len(self.endpoints))
