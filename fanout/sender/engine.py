"""The engine that `Sender` and `AsyncSender` hold: they differ in how they wait and in nothing else."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING

from fanout.discovery.refresher import Known, Refresher, Resolver, resolver_for
from fanout.errors import Closed, InvalidInput
from fanout.model import MAX_PAYLOAD, Endpoint, Family, Service, check_payload
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

STALL = 5.0
"""Seconds that a full socket is waited for before the rest of a message's copies count as dropped."""


@dataclass(slots=True)
class SenderStats:
    """What a sender has done since it was made: counts that only grow, and what is known now."""

    messages: int = 0
    sent: int = 0
    """Copies that the kernel took."""
    refused: int = 0
    """ICMP errors heard."""
    dropped: dict[DropReason, int] = field(default_factory=dict)
    """Copies that the kernel did not take, by reason."""
    endpoints: int = 0
    answer_age: float | None = None
    """Seconds since DNS last answered; None before the first answer."""
    resolver_failures: int = 0
    confirmed: int = 0
    """Pods that have confirmed a message or replied to a query, each time counted."""
    unconfirmed: int = 0
    """Pods that were asked to and have not, each time counted."""
    unexpected: dict[ReceiveDrop, int] = field(default_factory=dict)
    """Datagrams that came back and were no answer that was waited for, by reason: late ones are `UNEXPECTED`."""


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forked() -> None:
    for engine in list(_engines):
        engine.start_anew()


os.register_at_fork(after_in_child=_forked)


class Engine:
    """Knows the pods, owns the transport and the counts; its flows say what to send and what to wait for.

    `sends_a_turn` bounds what leaves before a flow lets others have a turn. Any thread may call anything.
    """

    def __init__(
        self,
        service: str | Service,
        port: int | str,
        *,
        family: Family | str,
        nameserver: str | None,
        allow_loopback: bool,
        resolver: Resolver | None,
        transport: Transport | None,
        numbered: bool,
        max_datagram: int | None,
        key_file: str | None,
        cluster: str,
        sends_a_turn: int | None = None,
    ) -> None:
        self.service = service if isinstance(service, Service) else Service(service, port, Family.parse(family))
        self._resolver = resolver or resolver_for(self.service, nameserver=nameserver, allow_loopback=allow_loopback)
        self.transport = transport or UdpTransport()
        self.refresher: Refresher | None = None
        self.opened: Refresher | None = None
        """The same, until the engine is closed."""
        self.is_closed = False
        self.lock = threading.Lock()
        """Held while the transport is called, and while what is counted changes."""
        self.counts = SenderStats()
        """Of what `stats` tells, all that is counted."""
        self._sends_a_turn = sends_a_turn
        self.is_framed = bool(numbered or key_file is not None or max_datagram is not None or cluster)
        """Whether messages that ask for no answer are framed, too."""
        self._framing = (numbered, max_datagram, key_file, cluster)
        self._encoder: Encoder | None = None
        self._exchanges: ExchangeTable | None = None
        self.check: Callable[[object], bytes] = check_payload
        """Returns a payload as bytes; raises `InvalidInput` or `MessageTooLarge`."""
        self.datagram_max = MAX_PAYLOAD
        """Bytes of the largest message that need not be cut."""
        if self.is_framed:
            from fanout.sender.encoder import check_message

            self.check = check_message
            self.datagram_max = self.encoder.fragment_size
        _engines.add(self)

    def start_anew(self) -> None:
        """Be an engine of its own in a process that was forked: no thread came along, and nothing may be shared.

        Two senders with one identity would seal with the same nonces, and confirm each other's messages.
        """
        self.lock = threading.Lock()
        self.refresher = self.opened = None
        self._encoder = self._exchanges = None
        if isinstance(self.transport, UdpTransport):
            self.transport.start_anew()

    @property
    def encoder(self) -> Encoder:
        """What makes frames."""
        if self._encoder is None:
            # Imported when first needed: a plain message is not to wait for it.
            from fanout.sender.encoder import Encoder

            numbered, max_datagram, key_file, cluster = self._framing
            made = Encoder(is_numbered=numbered, max_datagram=max_datagram, key_file=key_file, cluster=cluster)
            with self.lock:
                self._encoder = self._encoder or made
        return self._encoder

    @property
    def exchanges(self) -> ExchangeTable:
        """The confirmed messages and queries under way."""
        if self._exchanges is None:
            from fanout.sender.confirming import ExchangeTable

            made = ExchangeTable(self.encoder, self.counts)
            with self.lock:
                self._exchanges = self._exchanges or made
        return self._exchanges

    @property
    def known(self) -> Known:
        """What is known of the pods; nothing before the first answer."""
        return Known() if self.refresher is None else self.refresher.known

    @property
    def stats(self) -> SenderStats:
        """Counts since the sender was made; a copy."""
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
        """Start to resolve, where that was not done; raise `Closed`."""
        with self.lock:
            if self.is_closed:
                raise Closed(f"the sender to {self.service.name!r} is closed: make a new one")
            if self.refresher is None:
                self.refresher = Refresher(self._resolver, self.service.name)
                self.refresher.start()
                # The thread does not know the engine: one that is forgotten without close() must not keep it busy.
                weakref.finalize(self, self.refresher.stop)
            self.opened = self.refresher
            return self.refresher

    def close(self) -> None:
        """Stop to resolve and close the sockets. Closing twice is fine."""
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
        """Send messages that ask for nothing, and have recorded what became of them.

        Hold what keeps frames in their order meanwhile, where they are framed.
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
        """Attempt what is left once there is room for it; give it up where the socket stays full."""
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
        """Attempt what can be attempted now; return whether all copies have been. Counts, whatever becomes of the rest.

        Where there are some left, `finish` sees to them.
        """
        with self.lock:
            start, known = copies.position, len(copies.faults)
            sends, endpoints = self._sends_a_turn, copies.endpoints
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
        """Count copies as dropped that were counted as sent. Hold `lock`."""
        self.counts.sent -= len(faults)
        for fault in faults:
            reason = DropReason.of(fault.errno)
            self.counts.dropped[reason] = self.counts.dropped.get(reason, 0) + 1

    def record(self, tally: Tally, copies: Copies) -> None:
        """Record in a tally what became of the copies, and ICMP errors that are known by now."""
        tally.attempted(copies.endpoints, copies.size, copies.messages, len(copies.payloads))
        tally.dropped(copies.faults)
        if self.transport.has_heard:
            self.hear(tally)

    def hear(self, tally: Tally) -> None:
        """Count the ICMP errors that have come."""
        with self.lock:
            if self.is_closed:
                return
            heard = self.transport.heard()
            self.counts.refused += len(heard)
        tally.refused(heard)

    def report(self, tally: Tally) -> Report:
        """Return what was counted, with what is known of DNS."""
        known = self.known
        return Report.of(tally, known.age(monotonic()) or 0.0, known.failure is not None)

    def writable(self, endpoint: Endpoint) -> int | None:
        """Return a descriptor to wait on before a copy to `endpoint` can be attempted: to be closed by the caller.

        It is of the caller's own, for the socket may be closed meanwhile, and its number given to another.
        """
        with self.lock:
            fileno = self.transport.fileno(endpoint)
            return None if fileno is None else os.dup(fileno)

    def readable(self) -> list[int]:
        """Return what to wait on for answers; raise `Closed`."""
        if self.opened is None:
            self.open()
        with self.lock:
            return self.transport.readable()

    def receive(self, limit: int) -> tuple[list[tuple[bytes, Endpoint]], list[Fault]]:
        """Return up to `limit` datagrams that came back, and the ICMP errors that are known by now."""
        with self.lock:
            if self.is_closed:
                return [], []
            datagrams = self.transport.receive(limit)
            heard = self.transport.heard() if self.transport.has_heard else []
            self.counts.refused += len(heard)
        return datagrams, heard

    def end_stream(self) -> None:
        """Tell the pods how far the stream has come, as far as the socket has room."""
        if self.opened is not None and self._encoder is not None:
            for copies in self._encoder.marks():
                self.step(copies)

    def describe(self, kind: str) -> str:
        """Return the line that a sender of this kind shows of itself."""
        state = "closed" if self.is_closed else "open" if self.refresher is not None else "not opened"
        return f"<{kind} {self.service.name} ({len(self.known.endpoints)} endpoints, {state})>"


def check_stream(payloads: object) -> None:
    """Raise `InvalidInput` for one payload where several are asked for."""
    if isinstance(payloads, (bytes, bytearray, memoryview, str)):
        raise InvalidInput(
            f"payloads must be an iterable of payloads: use send for one, or a list; got {type(payloads).__name__}"
        )


def make_pacer(rate: float | None, bandwidth: float | None, burst: int) -> Pacer | None:
    """Return what paces a stream from now on; None where nothing does. Raises `InvalidInput`."""
    pacer = Pacer(monotonic(), rate=rate, bandwidth=bandwidth, burst=burst)
    return None if rate is None and bandwidth is None else pacer
