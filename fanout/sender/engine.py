"""The fan-out that `Sender` and `AsyncSender` share: they differ in how they wait and in nothing else."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from fanout.discovery.refresher import Known, Refresher, Resolver, resolver_for
from fanout.errors import Closed, InvalidInput
from fanout.model import DEFAULT_PORT, Endpoint, Family, Service, check_payload
from fanout.net.transport import Transport
from fanout.net.udp import UdpTransport
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.sending.batch import Batch
from fanout.protocol.sending.pacer import Pacer
from fanout.report import DropReason, Fault, Report, Tally

if TYPE_CHECKING:
    from fanout.sender.encoder import Encoder

STALL = 5.0
"""Seconds that a full socket is waited for before the rest of a message's copies count as dropped."""
LOOK_AGAIN = 0.05
"""Seconds between two looks at whether the sender was closed meanwhile."""
_FRAGMENTS = 32
"""Fragments of a large message that leave at once where nobody confirms them: a default receive buffer holds them."""
_PAUSE = 0.001
"""Seconds between two such."""


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


_senders: weakref.WeakSet[FanOut] = weakref.WeakSet()


def _forked() -> None:
    for sender in list(_senders):
        sender._start_anew()


os.register_at_fork(after_in_child=_forked)


class Copies:
    """The copies of a batch: what is still to be attempted, and what failed. Those before `position` were attempted."""

    __slots__ = ("_pods", "_total", "batch", "blocked", "endpoints", "faults", "messages", "pause", "position", "size")

    def __init__(
        self,
        payloads: Sequence[bytes],
        endpoints: tuple[Endpoint, ...],
        gso_limit: int,
        position: int = 0,
        faults: list[Fault] | None = None,
        *,
        messages: int | None = None,
        size: int | None = None,
        pause: float = 0.0,
    ) -> None:
        self.batch = Batch(payloads, gso_limit)
        self.endpoints = endpoints
        self.faults: list[Fault] = faults or []
        self.blocked = False
        self.position = position
        self.size = sum(map(len, payloads)) if size is None else size
        """Bytes of the messages, each counted once."""
        self.messages = len(payloads) if messages is None else messages
        """Messages that begin with these datagrams."""
        self.pause = pause
        """Seconds to wait before they are sent."""
        self._pods = len(endpoints)
        self._total = len(payloads) * self._pods

    def step(self, transport: Transport, sends: int | None = None) -> bool:
        """Attempt what can be attempted now, in at most so many sends; return whether all have been attempted.

        `blocked` then says whether the socket is full.
        """
        stop = self._total if sends is None else self.batch.after(self.position, self._pods, sends)
        self.position = transport.send_batch(self.batch, self.endpoints, self.position, stop, self.faults)
        self.blocked = self.position < stop
        return self.position >= self._total

    @property
    def next_endpoint(self) -> Endpoint:
        """The endpoint of the first copy that was not attempted."""
        _, pod = self.batch.copy_at(self.position, self._pods)
        return self.endpoints[pod]

    def give_up(self) -> None:
        """Count what was not attempted as dropped: the socket stayed full."""
        for position in range(self.position, self._total):
            message, pod = self.batch.copy_at(position, self._pods)
            self.faults.append(Fault(self.endpoints[pod], errno.EAGAIN, message))
        self.position = self._total


class FanOut:
    """What both senders are made of: everything but the waiting."""

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
        self.service = service if isinstance(service, Service) else Service(service, port, Family.parse(family))
        self._resolver = resolver or resolver_for(self.service, nameserver=nameserver, allow_loopback=allow_loopback)
        self._transport = transport or UdpTransport()
        self._refresher: Refresher | None = None
        self._opened: Refresher | None = None
        """The same, until the sender is closed."""
        self._closed = False
        self._lock = threading.Lock()
        """Held while the transport is called, and while what is counted changes."""
        self._stats = SenderStats()
        _senders.add(self)
        self._is_framed = bool(numbered or key_file is not None or max_datagram is not None or cluster)
        """Whether messages that ask for no answer are framed, too."""
        self._settings = (numbered, max_datagram, key_file, cluster)
        self._framing_made: Encoder | None = None
        self._check: Callable[[object], bytes] = check_payload
        """Returns a payload as bytes; raises `InvalidInput` or `MessageTooLarge`."""
        if self._is_framed:
            from fanout.sender.encoder import check_message

            self._check = check_message
            _ = self._framing

    def _start_anew(self) -> None:
        """Be a sender of its own in a process that was forked: no thread came along, and nothing may be shared.

        Two senders with one identity would seal with the same nonces, and confirm each other's messages.
        """
        self._lock = threading.Lock()
        self._refresher = self._opened = None
        self._framing_made = None
        if isinstance(self._transport, UdpTransport):
            self._transport.start_anew()

    @property
    def _framing(self) -> Encoder:
        if self._framing_made is None:
            # Imported when first needed: a plain message is not to wait for it.
            from fanout.sender.encoder import Encoder

            numbered, max_datagram, key_file, cluster = self._settings
            made = Encoder(is_numbered=numbered, max_datagram=max_datagram, key_file=key_file, cluster=cluster)
            with self._lock:
                self._framing_made = self._framing_made or made
        return self._framing_made

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The pods as they are known now; empty before the first answer."""
        return self._known().endpoints

    @property
    def stats(self) -> SenderStats:
        """Counts since the sender was made, for metrics; a copy."""
        known = self._known()
        with self._lock:
            return SenderStats(
                self._stats.messages,
                self._stats.sent,
                self._stats.refused,
                dict(self._stats.dropped),
                len(known.endpoints),
                known.age(monotonic()),
                known.failures,
                self._stats.confirmed,
                self._stats.unconfirmed,
                {} if self._framing_made is None else dict(self._framing_made.refused),
            )

    def _known(self) -> Known:
        return Known() if self._refresher is None else self._refresher.known

    def _open(self) -> Refresher:
        with self._lock:
            if self._closed:
                raise Closed(f"the sender to {self.service.name!r} is closed: make a new one")
            if self._refresher is None:
                self._refresher = Refresher(self._resolver, self.service.name)
                self._refresher.start()
                # The thread does not know the sender: one that is forgotten without close() must not keep it busy.
                weakref.finalize(self, self._refresher.stop)
            self._opened = self._refresher
            return self._refresher

    def _close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._opened = None
            self._transport.close()
        if self._refresher is not None:
            self._refresher.stop()

    def _step(self, copies: Copies, sends: int | None = None) -> bool:
        """See `Copies.step`; counts what was attempted, whatever becomes of the rest."""
        with self._lock:
            before, faults = copies.position, len(copies.faults)
            done = copies.step(self._transport, sends)
            self._add(copies.position - before, copies.faults[faults:])
            if done:
                self._stats.messages += copies.messages
            return done

    def _give_up(self, copies: Copies) -> None:
        with self._lock:
            before, faults = copies.position, len(copies.faults)
            copies.give_up()
            self._add(copies.position - before, copies.faults[faults:])
            self._stats.messages += copies.messages

    def _add(self, attempted: int, faults: Sequence[Fault]) -> None:
        self._stats.sent += attempted - len(faults)
        for fault in faults:
            reason = DropReason.of(fault.errno)
            self._stats.dropped[reason] = self._stats.dropped.get(reason, 0) + 1

    def _tell(self, tally: Tally, copies: Copies) -> None:
        """Let a tally know what became of a batch, and of ICMP errors that are known by now."""
        tally.attempted(copies.endpoints, copies.size, copies.messages, len(copies.batch.payloads))
        tally.dropped(copies.faults)
        if self._transport.has_heard:
            self._hear(tally)

    def _hear(self, tally: Tally) -> None:
        """Take the ICMP errors that have come."""
        with self._lock:
            if self._closed:
                return
            heard = self._transport.heard()
            self._stats.refused += len(heard)
        tally.refused(heard)

    def _writable(self, endpoint: Endpoint) -> int | None:
        """Return a descriptor to wait on before a copy to `endpoint` can be attempted: to be closed by the caller.

        It is of the caller's own, for the socket may be closed meanwhile, and its number given to another.
        """
        with self._lock:
            fileno = self._transport.fileno(endpoint)
            return None if fileno is None else os.dup(fileno)

    def _report(self, tally: Tally) -> Report:
        known = self._known()
        return Report.of(tally, known.age(monotonic()) or 0.0, known.failure is not None)

    def _is_large(self, payload: bytes) -> bool:
        """Whether a message has to be cut."""
        return self._is_framed and len(payload) > self._framing.fragment_size

    def _copies(self, payloads: Sequence[bytes], endpoints: tuple[Endpoint, ...]) -> Iterator[Copies]:
        """Return the copies of messages that ask for nothing.

        Hold `order` of the framing meanwhile, if they are framed.
        """
        gso_limit = self._transport.gso_limit
        if not self._is_framed:
            yield Copies(payloads, endpoints, gso_limit)
            return
        framing = self._framing
        largest = max(map(len, payloads))
        if largest > framing.fragment_size:
            for payload in payloads:
                frames = framing.fragments(payload, endpoints)
                for start in range(0, len(frames), _FRAGMENTS):
                    part = frames[start : start + _FRAGMENTS]
                    if start:
                        yield Copies(part, endpoints, gso_limit, messages=0, size=0, pause=_PAUSE)
                    else:
                        yield Copies(part, endpoints, gso_limit, messages=1, size=len(payload))
            return
        frames = framing.frames(payloads, endpoints)
        yield Copies(frames, endpoints, gso_limit, size=sum(map(len, payloads)))

    def _marks(self) -> list[Copies]:
        """Return the copies that tell each pod how far the stream has come."""
        if self._framing_made is None:
            return []
        from fanout.sender.encoder import MARKS

        marks = []
        for frame, endpoints in self._framing_made.marks():
            frames = self._framing_made.seal([frame] * MARKS)
            marks.append(Copies(frames, endpoints, 0, messages=0, size=0))
        return marks

    def _close_stream(self) -> None:
        """Tell the pods how far the stream has come, as far as the socket has room."""
        if self._opened is not None:
            for copies in self._marks():
                self._step(copies)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._refresher is not None else "not opened"
        return f"<{type(self).__name__} {self.service.name} ({len(self.endpoints)} endpoints, {state})>"


def check_stream(payloads: object) -> None:
    """Raise `InvalidInput` for one payload where several are asked for."""
    if isinstance(payloads, (bytes, bytearray, memoryview, str)):
        raise InvalidInput("send_many takes an iterable of payloads, not one of them: use send, or a list")


def make_pacer(rate: float | None, bandwidth: float | None, burst: int) -> Pacer | None:
    """Return what paces a stream from now on; None where nothing does. Raises `InvalidInput`."""
    pacer = Pacer(monotonic(), rate=rate, bandwidth=bandwidth, burst=burst)
    return None if rate is None and bandwidth is None else pacer
