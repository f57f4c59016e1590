"""Confirmed messages and queries, as far as `Sender` and `AsyncSender` share them: everything but the waiting."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING

from fanout.sender.engine import Copies, FanOut, SenderStats

if TYPE_CHECKING:
    from fanout.model import Endpoint
    from fanout.protocol.sending.exchange import Dispatch, Exchange
    from fanout.protocol.sending.receipt import Confirmation, Receipt, Reply

    OnReceipt = Callable[[Receipt], object] | None

_ANSWERS = 1024
"""Answers that are taken at a time."""


class Confirming(FanOut):
    """A fan-out whose messages may be confirmed or replied to; the state of each is an `Exchange`."""

    @cached_property
    def _abandoned(self) -> deque[Exchange]:
        """Exchanges that nobody waits for any more, and that were not ended."""
        return deque()

    def _begin(
        self,
        payload: bytes,
        endpoints: tuple[Endpoint, ...],
        timeout: float,
        retries: int | None,
        *,
        is_query: bool = False,
    ) -> Exchange:
        """Return a new exchange; hold `order` until its first copies have left."""
        self._end_abandoned()
        exchange = self._framing.begin(payload, endpoints, timeout=timeout, retries=retries, is_query=is_query)
        with self._lock:
            self._stats.messages += 1
        return exchange

    def _turn(self, exchange: Exchange, on_receipt: OnReceipt) -> tuple[list[Copies], list[Reply], bool]:
        """Return what to send now, the replies that have come, and whether the exchange is over."""
        with self._framing.answers:
            now = monotonic()
            exchange.follow(self._known().endpoints, now)
            is_over = exchange.is_over(now)
            due = [] if is_over else exchange.due(now)
            changed, replies = exchange.changed(), exchange.replies()
        if on_receipt is not None:
            for receipt in changed:
                on_receipt(receipt)
        return [self._asking(dispatch) for dispatch in due], replies, is_over

    def _asking_now(self, exchange: Exchange) -> list[Copies]:
        """Return what a new exchange has to send."""
        with self._framing.answers:
            due = exchange.due(monotonic())
        return [self._asking(dispatch) for dispatch in due]

    def _asking(self, dispatch: Dispatch) -> Copies:
        frames = self._framing.seal(dispatch.frames)
        return Copies(frames, dispatch.endpoints, self._transport.gso_limit, messages=0)

    def _asked(self, exchange: Exchange, copies: Copies) -> None:
        """Let the exchange know what the kernel did not take."""
        if copies.faults:
            with self._framing.answers:
                for endpoint, number in {fault.endpoint: fault.errno for fault in copies.faults}.items():
                    exchange.dropped(endpoint, number, monotonic())

    def _take_answers(self) -> list[Exchange]:
        """Take what came back; return the exchanges that have news. Hold `answers` of the framing."""
        with self._lock:
            if self._closed:
                return []
            datagrams = self._transport.receive(_ANSWERS)
            heard = self._transport.heard() if self._transport.has_heard else []
            self._stats.refused += len(heard)
        return self._framing.came(datagrams, heard, monotonic())

    def _readable(self) -> list[int]:
        """Return what to wait on for answers; raise `Closed`."""
        self._open()
        with self._lock:
            return self._transport.readable()

    def _end(self, exchange: Exchange) -> None:
        """Let an exchange be told no more, and count what became of it. Ending twice is fine."""
        if not self._framing.end(exchange):
            return
        confirmation = self._confirmation(exchange)
        with self._lock:
            confirmed = len(confirmation.confirmed)
            self._stats.confirmed += confirmed
            self._stats.unconfirmed += len(confirmation.receipts) - confirmed

    def _end_with(self, owner: object, exchange: Exchange) -> None:
        """Have an exchange ended once its owner is gone, whether or not it was waited for."""
        # Not at once: that may be in the middle of anything, with locks held.
        weakref.finalize(owner, self._abandoned.append, exchange)

    def _abandon(self, exchange: Exchange) -> None:
        """Have an exchange ended soon, from wherever: nothing where it was ended."""
        self._abandoned.append(exchange)

    def _end_abandoned(self) -> None:
        while self._abandoned:
            self._end(self._abandoned.popleft())

    @property
    def stats(self) -> SenderStats:
        """Counts since the sender was made, for metrics; a copy."""
        self._end_abandoned()
        return super().stats

    def _confirmation(self, exchange: Exchange) -> Confirmation:
        from fanout.protocol.sending.receipt import Confirmation

        known = self._known()
        with self._framing.answers:
            return Confirmation(
                exchange.receipts(),
                exchange.size,
                exchange.elapsed(monotonic()),
                known.age(monotonic()) or 0.0,
                known.failure is not None,
            )
