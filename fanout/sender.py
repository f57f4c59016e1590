"""`Sender`, and the fan-out that it shares with `AsyncSender`: the two differ in how they wait and in nothing else."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Self

from fanout.batch import Batch
from fanout.coalescing import Coalescer
from fanout.errors import Closed, FanoutError, InvalidInput
from fanout.model import DEFAULT_PORT, MAX_PAYLOAD, Endpoint, Family, Service, check_payload
from fanout.net.transport import Transport
from fanout.net.udp import UdpTransport
from fanout.pacing import BURST, Pacer
from fanout.refresher import Known, Refresher, Resolver, resolver_for
from fanout.report import DropReason, Fault, Report, Tally

STALL = 5.0
"""Seconds that a full socket is waited for before the rest of a message's copies count as dropped."""
_LOOK_AGAIN = 0.05
"""Seconds between two looks at whether the sender was closed meanwhile."""


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


class Copies:
    """The copies of a batch: what is still to be attempted, and what failed. Those before `position` were attempted."""

    __slots__ = ("_pods", "_total", "batch", "blocked", "endpoints", "faults", "position", "size")

    def __init__(
        self,
        payloads: Sequence[bytes],
        endpoints: tuple[Endpoint, ...],
        gso_limit: int,
        position: int = 0,
        faults: list[Fault] | None = None,
    ) -> None:
        self.batch = Batch(payloads, gso_limit)
        self.endpoints = endpoints
        self.faults: list[Fault] = faults or []
        self.blocked = False
        self.position = position
        self.size = sum(map(len, payloads))
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
                self._stats.messages += len(copies.batch.payloads)
            return done

    def _give_up(self, copies: Copies) -> None:
        with self._lock:
            before, faults = copies.position, len(copies.faults)
            copies.give_up()
            self._add(copies.position - before, copies.faults[faults:])
            self._stats.messages += len(copies.batch.payloads)

    def _add(self, attempted: int, faults: Sequence[Fault]) -> None:
        self._stats.sent += attempted - len(faults)
        for fault in faults:
            reason = DropReason.of(fault.errno)
            self._stats.dropped[reason] = self._stats.dropped.get(reason, 0) + 1

    def _tell(self, tally: Tally, copies: Copies) -> None:
        """Let a tally know what became of a batch, and of ICMP errors that are known by now."""
        tally.attempted(copies.endpoints, copies.size, len(copies.batch.payloads))
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

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._refresher is not None else "not opened"
        return f"<{type(self).__name__} {self.service.name} ({len(self.endpoints)} endpoints, {state})>"


class Sender(FanOut):
    """Sends each message to every pod of a headless Service.

    `service` is a short name, an FQDN (with a trailing dot it is taken as it is) or a literal list of endpoints
    (`10.0.0.7,10.0.0.8:13000`), `port` a number or the name of a Service port. Loopback addresses in answers of
    DNS are refused unless `allow_loopback`. `nameserver` (`HOST[:PORT]`) takes the place of those in resolv.conf.
    `resolver` and `transport` replace DNS and the sockets, in tests for instance (`fanout.testing`).

    The pods are resolved in the background from the first use on. `send` waits for DNS only where there never was
    an answer; a later outage keeps the last known pods. Safe to use from several threads. Raises `InvalidService`.
    """

    def send(self, payload: bytes, *, settle: float = 0.0) -> Report:
        """Send one copy of `payload` (up to 65,507 bytes) to each pod and report on each.

        ICMP errors come a round trip later: `settle` is how many seconds to wait for them. Those that come after
        this call are told by a later report. Raises `InvalidInput`, `MessageTooLarge`, `NoEndpoints`,
        `ResolverUnavailable` or `Closed`; no pod got a copy then (but for a sender that is closed while it sends).
        """
        # Written out, and not a stream of one: to two pods, this function must cost next to nothing.
        if type(payload) is not bytes or len(payload) > MAX_PAYLOAD:
            payload = check_payload(payload)
        refresher = self._opened or self._open()
        known = refresher.known
        endpoints = known.endpoints
        if not endpoints:
            known = refresher.endpoints()
            endpoints = known.endpoints
        stop = len(endpoints)
        faults: list[Fault] = []
        transport = self._transport
        with self._lock:
            position = transport.send(payload, endpoints, 0, stop, faults)
            stats = self._stats
            if position == stop and not (faults or settle or transport.has_heard):
                stats.messages += 1
                stats.sent += stop
                age = monotonic() - (known.answered_at or 0.0)
                return Report(1, len(payload), ((endpoints, 1),), age, known.failure is not None)
            self._add(position, faults)
            stats.messages += position == stop
        copies = Copies((payload,), endpoints, 0, position, faults)
        if position < stop:
            self._finish(copies)
        tally = Tally()
        self._tell(tally, copies)
        return self._settled(tally, settle)

    def _finish(self, copies: Copies) -> None:
        while not self._step(copies):
            if not self._wait_writable(copies.next_endpoint):
                self._give_up(copies)
                return

    def _wait_writable(self, endpoint: Endpoint) -> bool:
        """Wait until the socket has room; return False where it stayed full, raise `Closed` where it was closed."""
        descriptor = self._writable(endpoint)
        if descriptor is None:
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            deadline = monotonic() + STALL
            while monotonic() < deadline and not self._closed:
                if poll.poll(_LOOK_AGAIN * 1000):
                    return True
        finally:
            os.close(descriptor)
        if self._closed:
            self._open()
        return False

    def send_many(
        self,
        payloads: Iterable[bytes],
        *,
        rate: float | None = None,
        bandwidth: float | None = None,
        burst: int = BURST,
        stop: threading.Event | None = None,
        settle: float = 0.0,
    ) -> Report:
        """Send each of `payloads` as it is produced, following the pods meanwhile; report on all.

        What is produced within a millisecond leaves together, as runs of equal sizes where the kernel can (GSO);
        what comes after a pause leaves at once. `rate` (messages/s) and `bandwidth` (bits of payload/s) pace the
        stream, in bursts of at most `burst` tiny datagrams (see `Pacer`); `stop`, set by anyone, ends it before its
        next message.

        An error raised by the iterable, or by one of its payloads, ends the stream: what came before it was sent.
        Raises what `send` raises, with the `report` of what was sent.
        """
        refresher = self._open()
        tally = Tally()

        def flush(ready: list[bytes]) -> None:
            copies = Copies(ready, refresher.endpoints().endpoints, self._transport.gso_limit)
            self._finish(copies)
            self._tell(tally, copies)

        check_stream(payloads)
        pacer = make_pacer(rate, bandwidth, burst)
        never_pauses = type(payloads) in (list, tuple)
        try:
            with Coalescer(flush, pacer=pacer, stop=stop, never_pauses=never_pauses) as coalescer:
                for payload in payloads:
                    if not coalescer.put(check_payload(payload)):
                        break
        except FanoutError as error:
            error.report = self._report(tally)
            raise
        self._hear(tally)
        return self._settled(tally, settle)

    def _settled(self, tally: Tally, settle: float) -> Report:
        if settle > 0:
            time.sleep(settle)
            self._hear(tally)
        return self._report(tally)

    def resolve(self) -> tuple[Endpoint, ...]:
        """Return the pods; wait where there never was an answer. Raises `NoEndpoints` or `ResolverUnavailable`."""
        return self._open().endpoints().endpoints

    def open(self) -> Self:
        """Start to resolve, and return at once; `send` does it where it was not done."""
        self._open()
        return self

    def close(self) -> None:
        """Stop to resolve and close the sockets. Closing twice is fine."""
        self._close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_stream(payloads: object) -> None:
    """Raise `InvalidInput` for one payload where several are asked for."""
    if isinstance(payloads, (bytes, bytearray, memoryview, str)):
        raise InvalidInput("send_many takes an iterable of payloads, not one of them: use send, or a list")


def make_pacer(rate: float | None, bandwidth: float | None, burst: int) -> Pacer | None:
    """Return what paces a stream from now on; None where nothing does. Raises `InvalidInput`."""
    pacer = Pacer(monotonic(), rate=rate, bandwidth=bandwidth, burst=burst)
    return None if rate is None and bandwidth is None else pacer
