"""Confirmed messages and queries: the flow of one, for both senders, and the table of those in progress."""

from __future__ import annotations

import contextlib
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, Self

from fanout import options
from fanout.errors import Closed, InvalidInput
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import InvalidFrame
from fanout.protocol.sending.exchange import Dispatch, Exchange
from fanout.protocol.sending.receipt import Confirmation, Receipt
from fanout.protocol.sending.rtt import RttEstimator
from fanout.sender.encoder import Encoder, check_message
from fanout.sender.steps import Copies, WaitReadable

if TYPE_CHECKING:
    from fanout.model import Endpoint
    from fanout.sender.engine import Engine, SenderStats
    from fanout.sender.steps import Flow

OnReceipt = Callable[[Receipt], object] | None
_ANSWERS = 1024
"""Maximum of answers read at a time."""


class Request(NamedTuple):
    """A message to be confirmed or replied to, with its options."""

    payload: bytes
    timeout: float
    retries: int | None
    on_receipt: OnReceipt
    is_query: bool

    @classmethod
    def checked(
        cls, payload: object, timeout: float, retries: int | None, on_receipt: OnReceipt, *, is_query: bool
    ) -> Self:
        """Return the request; raise `InvalidInput` or `MessageTooLarge`."""
        data = check_message(payload)
        if on_receipt is not None and not callable(on_receipt):
            raise InvalidInput(f"on_receipt must be callable; got {on_receipt!r}")
        options.positive_number("timeout", timeout, most=86_400, unit="seconds")
        if retries is not None:
            options.whole_number("retries", retries, least=0)
        return cls(data, timeout, retries, on_receipt, is_query)


class ExchangeTable:
    """A sender's exchanges in progress: dispatches each answer to its exchange. Thread-safe."""

    def __init__(self, encoder: Encoder, counts: SenderStats, counting: threading.Lock) -> None:
        self.encoder = encoder
        self.answers: threading.Condition = threading.Condition()
        """Held while exchanges are read or changed."""
        self.is_reading = False
        """Whether a thread is waiting on the sockets: it reads for all threads that wait for answers."""
        self.is_inherited: bool = False
        """Whether it belongs to the process from which this one was forked: with its keys and numbers, nothing may
        be sent here."""
        self._counts = counts
        self._counting = counting
        """Held while `counts` change; taken after `answers`."""
        self._under_way: dict[int, Exchange] = {}
        self._abandoned: deque[Exchange] = deque()
        self._round_trip = RttEstimator(random.random)

    def begin(self, request: Request, endpoints: tuple[Endpoint, ...]) -> Exchange:
        """Return a new exchange, which gets its answers until `end`; hold `order` until it was first sent."""
        if self._abandoned:
            self.end_abandoned()
        encoder = self.encoder
        exchange = Exchange(
            request.payload,
            endpoints,
            monotonic(),
            sender=encoder.identity,
            number=encoder.take_numbers(1, endpoints),
            fragment_size=encoder.fragment_size,
            timeout=request.timeout,
            retries=request.retries,
            is_query=request.is_query,
            is_numbered=encoder.is_numbered,
            round_trip=self._round_trip,
        )
        with self.answers:
            self._under_way[exchange.number] = exchange
        return exchange

    def end(self, exchange: Exchange) -> None:
        """Dispatch no more answers to it, and count its outcome. Ending twice is fine."""
        with self.answers:
            if self._under_way.pop(exchange.number, None) is None:
                return
            confirmed, unconfirmed = exchange.count()
            with self._counting:
                self._counts.confirmed += confirmed
                self._counts.unconfirmed += unconfirmed

    def abandon(self, exchange: Exchange) -> None:
        """Schedule it to be ended. Safe at any point, even with locks held, as from the garbage collector."""
        self._abandoned.append(exchange)

    def end_abandoned(self) -> None:
        """End the abandoned exchanges."""
        while self._abandoned:
            self.end(self._abandoned.popleft())

    def take(self, engine: Engine) -> list[Exchange]:
        """Read answers and ICMP errors; return the exchanges that have news. Hold `answers`."""
        datagrams, errors = engine.receive(_ANSWERS)
        now = monotonic()
        changed: dict[int, Exchange] = {}
        encoder = self.encoder
        if encoder.is_sealed:
            encoder.follow_keys()
        for datagram, source in datagrams:
            try:
                answer = encoder.open(datagram)
            except InvalidFrame as refusal:
                self._refuse(refusal.reason)
                continue
            exchange = self._under_way.get(answer.number)
            if exchange is None or not exchange.take(answer, source, now):
                self._refuse(ReceiveDrop.UNEXPECTED)
            else:
                changed[exchange.number] = exchange
        for fault in errors:
            for exchange in self._under_way.values():
                exchange.refused(fault.endpoint, fault.errno, now)
                changed[exchange.number] = exchange
        return list(changed.values())

    def _refuse(self, reason: ReceiveDrop) -> None:
        unexpected = self._counts.unexpected
        with self._counting:
            unexpected[reason] = unexpected.get(reason, 0) + 1


class Conversation:
    """One confirmed message or query; both senders run its flows: `ask` first, and then `converse`."""

    def __init__(self, engine: Engine, table: ExchangeTable, request: Request, endpoints: tuple[Endpoint, ...]) -> None:
        """Hold `order` of the encoder until `ask` has ended: the message is numbered here."""
        self._engine = engine
        self._table = table
        self._refresher = engine.opened or engine.open()
        self._on_receipt = request.on_receipt
        self.exchange: Exchange = table.begin(request, endpoints)
        with engine.lock:
            engine.counts.messages += 1

    def ask(self) -> Flow:
        """Send the first copies."""
        table = self._table
        try:
            with table.answers:
                due = self.exchange.due(monotonic())
            yield from self._send(due)
        except BaseException:
            table.abandon(self.exchange)
            raise

    def converse(self) -> Flow:
        """Yield replies, and send what is due, until the exchange is over."""
        table, exchange, on_receipt = self._table, self.exchange, self._on_receipt
        try:
            while True:
                if table.is_inherited:
                    raise Closed("the message was sent by the process from which this one was forked: send it here")
                with table.answers:
                    known = self._refresher.known.endpoints
                    turn = exchange.advance(known, monotonic(), is_watched=on_receipt is not None)
                if on_receipt is not None:
                    for receipt in turn.receipts:
                        on_receipt(receipt)
                if turn.due:
                    yield from self._send(turn.due)
                yield from turn.replies
                if turn.is_over:
                    table.end(exchange)
                    return
                yield WaitReadable(exchange, table)
        except BaseException:
            # Not ended here: the garbage collector may close a generator while this very thread holds a lock.
            table.abandon(exchange)
            raise

    def _send(self, due: list[Dispatch]) -> Flow:
        engine, table, exchange = self._engine, self._table, self.exchange
        for frames, endpoints in due:
            gso_limit = engine.transport.gso_limit if len(frames) > 1 else 0
            datagrams = table.encoder.seal(frames) if table.encoder.is_sealed else frames
            copies = Copies(datagrams, endpoints, gso_limit, messages=0)
            if not engine.step(copies):
                yield from engine.finish(copies)
            if copies.faults:
                with table.answers:
                    for endpoint, number in {fault.endpoint: fault.errno for fault in copies.faults}.items():
                        exchange.dropped(endpoint, number, monotonic())

    def end_with(self, owner: object) -> None:
        """End it once its owner is gone, whether or not it was waited for."""
        weakref.finalize(owner, self._table.abandon, self.exchange)

    @property
    def confirmation(self) -> Confirmation:
        """The state of each pod."""
        known, now, exchange = self._refresher.known, monotonic(), self.exchange
        # In a forked process, a thread that is not there may hold the lock, and nothing changes any more.
        with contextlib.nullcontext() if self._table.is_inherited else self._table.answers:
            return exchange.confirmation(now, now - (known.answered_at or now), known.failure is not None)
