"""The engine that `Sender` and `AsyncSender` share; they differ only in how they wait."""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from fanout.discovery.core.endpoints import Known
from fanout.discovery.refresher import Refresher, Resolver, resolver_for
from fanout.errors import Closed, InvalidInput
from fanout.model import DEFAULT_PORT, MAX_PAYLOAD, Endpoint, Family, Service, check_payload
from fanout.net.transport import Transport
from fanout.net.udp import UdpTransport
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.sending.pacer import Pacer
from fanout.report import DropReason, Fault, Report, Tally
from fanout.sender.steps import Copies, Sleep, WaitWritable

if TYPE_CHECKING:
    from fanout.sender.confirming import ExchangeTable
    from fanout.sender.encoder import Encoder
    from fanout.sender.steps import Flow

TIMEOUT = 2.0
"""Seconds to wait for the answers of all pods."""
STALL = 5.0
"""Seconds to wait for a full socket before the rest of a message's copies count as dropped."""


@dataclass(slots=True)
class SenderStats:
    """What a sender has done since it was created: counts that only grow, and current values."""

    messages: int = 0
    sent: int = 0
    """Copies that the kernel took."""
    refused: int = 0
    """ICMP errors received."""
    dropped: dict[DropReason, int] = field(default_factory=dict)
    """Copies that the kernel did not take, by reason."""
    endpoints: int = 0
    answer_age: float | None = None
    """Seconds since DNS last answered; None before the first answer."""
    resolver_failures: int = 0
    confirmed: int = 0
    """Pods that confirmed a message or replied to a query, counted each time."""
    unconfirmed: int = 0
    """Pods that were asked to and did not, counted each time."""
    unexpected: dict[ReceiveDrop, int] = field(default_factory=dict)
    """Datagrams that came back but answered no pending message, by reason: late answers are `UNEXPECTED`."""


class Framing(NamedTuple):
    """How a sender's frames are made: see `Sender`."""

    is_numbered: bool = False
    max_datagram: int | None = None
    key_file: str | None = None
    cluster: str = ""

    @property
    def is_wanted(self) -> bool:
        """Whether unconfirmed messages are framed, too."""
        return bool(self.is_numbered or self.key_file is not None or self.max_datagram is not None or self.cluster)


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forked() -> None:
    for engine in list(_engines):
        engine.start_anew()


os.register_at_fork(after_in_child=_forked)


class Engine:
    """Knows the pods, owns the transport and the counts; its flows say what to send and wait for. Thread-safe."""

    def __init__(self, service: Service, resolver: Resolver, transport: Transport, framing: Framing) -> None:
        self.service = service
        self._resolver = resolver
        self.transport = transport
        self.refresher: Refresher | None = None
        self.opened: Refresher | None = None
        """The refresher, until the engine is closed."""
        self.is_closed: bool = False
        self.lock: threading.Lock = threading.Lock()
        """Held while the transport is called and while `counts` change."""
        self.counts: SenderStats = SenderStats()
        """The counters of `stats`."""
        self.sends_a_turn: int | None = None
        """The sends between two points at which a flow yields to others; None for no bound."""
        self.is_framed: bool = framing.is_wanted
        """Whether unconfirmed messages are framed, too."""
        self._framing = framing
        self._encoder: Encoder | None = None
        self._exchanges: ExchangeTable | None = None
        self.check: Callable[[object], bytes] = check_payload
        """Return a payload as bytes; raise `InvalidInput` or `MessageTooLarge`."""
        self.datagram_max: int = MAX_PAYLOAD
        """Bytes of the largest message that fits in one datagram."""
        if self.is_framed:
            from fanout.sender.encoder import check_message

            self.check = check_message
            self.datagram_max = self.encoder.fragment_size
        _engines.add(self)

    def start_anew(self) -> None:
        """Become independent in a forked process: it has no threads, and must share nothing with its parent.

        Two senders with one identity would seal with the same nonces, and take each other's answers.
        """
        self.lock = threading.Lock()
        self.refresher = self.opened = None
        if self._exchanges is not None:
            self._exchanges.is_inherited = True
        self._encoder = self._exchanges = None
        if isinstance(self.transport, UdpTransport):
            self.transport.start_anew()

    @property
    def encoder(self) -> Encoder:
        """The encoder of frames, created on first use."""
        if self._encoder is None:
            # Imported when first needed: plain messages must not wait for it.
            from fanout.sender.encoder import Encoder

            made = Encoder(*self._framing)
            with self.lock:
                self._encoder = self._encoder or made
        return self._encoder

    @property
    def exchanges(self) -> ExchangeTable:
        """The confirmed messages and queries in progress."""
        if self._exchanges is None:
            from fanout.sender.confirming import ExchangeTable

            made = ExchangeTable(self.encoder, self.counts, self.lock)
            with self.lock:
                self._exchanges = self._exchanges or made
        return self._exchanges

    @property
    def known(self) -> Known:
        """The known pods; empty before the first answer."""
        return Known() if self.refresher is None else self.refresher.known

    @property
    def stats(self) -> SenderStats:
        """Counts since the sender was created; a copy."""
        if self._exchanges is not None:
            self._exchanges.end_abandoned()
        known = self.known
        with self.lock:
            return replace(
                self.counts,
                dropped=dict(self.counts.dropped),
                unexpected=dict(self.counts.unexpected),
                endpoints=len(known.endpoints),
                answer_age=known.age(monotonic()),
                resolver_failures=known.failures,
            )

    def open(self) -> Refresher:
        """Start resolving, unless started before; raise `Closed`."""
        with self.lock:
            if self.is_closed:
                raise Closed(f"the sender to {self.service.name!r} is closed: make a new one")
            if self.refresher is None:
                self.refresher = Refresher(self._resolver, self.service.name)
                self.refresher.start()
                # The thread holds no reference to the engine: one dropped without close() must not keep it running.
                weakref.finalize(self, self.refresher.stop)
            self.opened = self.refresher
            return self.refresher

    def close(self) -> None:
        """Stop resolving and close the sockets. Closing twice is fine."""
        with self.lock:
            if self.is_closed:
                return
            self.is_closed = True
            self.opened = None
            self.transport.close()
        if self.refresher is not None:
            self.refresher.stop()

    def send(
        self, payloads: Sequence[bytes], endpoints: tuple[Endpoint, ...], record: Callable[[Copies], None]
    ) -> Flow:
        """Send unconfirmed messages, and `record` what became of their copies.

        Where they are framed, hold the lock that keeps frames in order meanwhile.
        """
        gso_limit = self.transport.gso_limit
        if self.is_framed:
            parts = self.encoder.copies(payloads, endpoints, gso_limit)
        else:
            parts = iter((Copies(payloads, endpoints, gso_limit),))
        for copies in parts:
            if copies.pause:
                yield Sleep(copies.pause)
            if not self.step(copies):
                yield from self.finish(copies)
            record(copies)

    def finish(self, copies: Copies) -> Flow:
        """Attempt the remaining copies once the socket is writable; drop them where it stays full."""
        while True:
            if not copies.is_blocked:
                yield Sleep(0.0)
            elif not (yield WaitWritable(copies.next_endpoint, STALL)):
                with self.lock:
                    start, known = copies.position, len(copies.faults)
                    copies.give_up()
                    self.counts.sent += copies.total - start
                    self.count_faults(copies.faults[known:])
                    self.counts.messages += copies.messages
                return
            if self.step(copies):
                return

    def step(self, copies: Copies) -> bool:
        """Attempt what can be attempted now, and count it; return whether all copies have been attempted.

        Where some are left, run `finish`.
        """
        with self.lock:
            start, known = copies.position, len(copies.faults)
            sends, endpoints = self.sends_a_turn, copies.endpoints
            stop = copies.total if sends is None else copies.after(sends)
            if copies.batch is None:
                reached = self.transport.send(copies.payloads[0], endpoints, start, stop, copies.faults)
            else:
                reached = self.transport.send_batch(copies.batch, endpoints, start, stop, copies.faults)
            copies.position = reached
            copies.is_blocked = reached < stop
            self.counts.sent += reached - start
            if len(copies.faults) > known:
                self.count_faults(copies.faults[known:])
            is_done = reached == copies.total
            if is_done:
                self.counts.messages += copies.messages
            return is_done

    def count_faults(self, faults: Sequence[Fault]) -> None:
        """Count copies that were counted as sent as dropped instead. Hold `lock`."""
        self.counts.sent -= len(faults)
        for fault in faults:
            reason = DropReason.of(fault.errno)
            self.counts.dropped[reason] = self.counts.dropped.get(reason, 0) + 1

    def record(self, tally: Tally, copies: Copies) -> None:
        """Record in a tally what became of the copies, and the ICMP errors known by now."""
        tally.attempted(copies.endpoints, copies.size, copies.messages, len(copies.payloads))
        tally.dropped(copies.faults)
        if self.transport.has_icmp_errors:
            self.count_icmp_errors(tally)

    def count_icmp_errors(self, tally: Tally) -> None:
        """Count the ICMP errors received so far."""
        with self.lock:
            if self.is_closed:
                return
            errors = self.transport.icmp_errors()
            self.counts.refused += len(errors)
        tally.refused(errors)

    def report(self, tally: Tally) -> Report:
        """Return the report of a tally, with the age of the DNS answer."""
        known = self.known
        return Report.of(tally, known.age(monotonic()) or 0.0, known.failure is not None)

    def writable(self, endpoint: Endpoint) -> int | None:
        """Return a descriptor to wait on before a copy to `endpoint` can be attempted; the caller closes it.

        It is a duplicate, since the socket may be closed meanwhile and its number reused.
        """
        with self.lock:
            fileno = self.transport.fileno(endpoint)
            return None if fileno is None else os.dup(fileno)

    def readable(self) -> list[int]:
        """Return the descriptors to wait on for answers; raise `Closed`."""
        if self.opened is None:
            self.open()
        with self.lock:
            return self.transport.readable()

    def receive(self, limit: int) -> tuple[list[tuple[bytes, Endpoint]], list[Fault]]:
        """Return up to `limit` datagrams that came back, and the ICMP errors known by now."""
        with self.lock:
            if self.is_closed:
                return [], []
            datagrams = self.transport.receive(limit)
            errors = self.transport.icmp_errors() if self.transport.has_icmp_errors else []
            self.counts.refused += len(errors)
        return datagrams, errors

    def end_stream(self) -> None:
        """Send each pod a mark of how far the stream has come, unless the socket is full."""
        if self.opened is not None and self._encoder is not None:
            for copies in self._encoder.marks():
                self.step(copies)

    def __str__(self) -> str:
        state = "closed" if self.is_closed else "open" if self.refresher is not None else "not opened"
        return f"{self.service.name} ({len(self.known.endpoints)} endpoints, {state})"


class SenderBase(ABC):
    """What `Sender` and `AsyncSender` have in common: their options and what can be read of them."""

    def __init__(
        self,
        service: str | Service,
        port: int | str = DEFAULT_PORT,
        *,
        family: Family | str = Family.ANY,
        nameserver: str | None = None,
        allow_loopback: bool = False,
        resolver: Resolver | None = None,
        transport: Transport | None = None,
        numbered: bool = False,
        max_datagram: int | None = None,
        key_file: str | None = None,
        cluster: str = "",
    ) -> None:
        named = service if isinstance(service, Service) else Service(service, port, Family.parse(family))
        self.__engine = Engine(
            named,
            resolver or resolver_for(named, nameserver=nameserver, allow_loopback=allow_loopback),
            transport or UdpTransport(),
            Framing(numbered, max_datagram, key_file, cluster),
        )
        self._begin(self.__engine)

    @abstractmethod
    def _begin(self, engine: Engine) -> None:
        """Begin to drive the engine: the end of the constructor."""

    @property
    def service(self) -> Service:
        """The Service that is sent to."""
        return self.__engine.service

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The pods known now; empty before the first answer."""
        return self.__engine.known.endpoints

    @property
    def stats(self) -> SenderStats:
        """Counts since the sender was created, for metrics; a copy."""
        return self.__engine.stats

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__engine}>"


def check_stream(payloads: object) -> None:
    """Raise `InvalidInput` for a single payload instead of an iterable."""
    if isinstance(payloads, (bytes, bytearray, memoryview, str)):
        raise InvalidInput(
            f"payloads must be an iterable of payloads: use send for one, or a list; got {type(payloads).__name__}"
        )


def make_pacer(rate: float | None, bandwidth: float | None, burst: int) -> Pacer | None:
    """Return the pacer of a stream that starts now; None where it is not paced. Raises `InvalidInput`."""
    pacer = Pacer(monotonic(), rate=rate, bandwidth=bandwidth, burst=burst)
    return None if rate is None and bandwidth is None else pacer
