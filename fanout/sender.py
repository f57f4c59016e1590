"""`Sender`, and the fan-out that it shares with `AsyncSender`: the two differ in how they wait and in nothing else."""

from __future__ import annotations

import errno
import select
import threading
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from fanout.errors import Closed
from fanout.model import DEFAULT_PORT, Endpoint, Family, Service, check_payload
from fanout.net.transport import Transport, UdpTransport
from fanout.refresher import Known, Refresher, Resolver, resolver_for
from fanout.report import DropReason, Fault, Report, Tally

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


class Copies:
    """The copies of one message: what is still to be attempted, and what failed."""

    __slots__ = ("blocked", "endpoints", "faults", "payload", "position", "transport")

    def __init__(self, transport: Transport, payload: bytes, endpoints: tuple[Endpoint, ...]) -> None:
        self.transport = transport
        self.payload = payload
        self.endpoints = endpoints
        self.position = 0
        self.blocked = False
        self.faults: list[Fault] = []

    def step(self, limit: int | None = None) -> bool:
        """Attempt what can be attempted now, at most `limit` copies; return whether all have been attempted.

        `blocked` then says whether the socket is full.
        """
        stop = len(self.endpoints) if limit is None else min(self.position + limit, len(self.endpoints))
        self.position = self.transport.send(self.payload, self.endpoints[:stop], self.position, self.faults)
        self.blocked = self.position < stop
        return self.position >= len(self.endpoints)

    def fileno(self) -> int | None:
        """Return what to wait on for writing."""
        return self.transport.fileno(self.endpoints[self.position])

    def give_up(self) -> None:
        """Count what was not attempted as dropped: the socket stayed full."""
        self.faults.extend(Fault(endpoint, errno.EAGAIN) for endpoint in self.endpoints[self.position :])
        self.position = len(self.endpoints)


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
        self._closed = False
        self._lock = threading.Lock()
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
                known.age(time.monotonic()),
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
            return self._refresher

    def _close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._refresher is not None:
            self._refresher.stop()
        self._transport.close()

    def _count(self, copies: Copies, tally: Tally) -> None:
        tally.attempted(copies.endpoints, len(copies.payload))
        heard = self._transport.heard()
        if copies.faults:
            tally.dropped(copies.faults)
        if heard:
            tally.refused(heard)
        with self._lock:
            self._stats.messages += 1
            self._stats.sent += len(copies.endpoints) - len(copies.faults)
            self._stats.refused += len(heard)
            for fault in copies.faults:
                reason = DropReason.of(fault.errno)
                self._stats.dropped[reason] = self._stats.dropped.get(reason, 0) + 1

    def _report(self, tally: Tally, *, settled: bool) -> Report:
        if settled:
            late = self._transport.heard()
            tally.refused(late)
            with self._lock:
                self._stats.refused += len(late)
        known = self._known()
        return Report(tally, age=known.age(time.monotonic()) or 0.0, stale=known.failure is not None)

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
        this call are told by the next report. Raises `InvalidInput`, `MessageTooLarge`, `NoEndpoints`,
        `ResolverUnavailable` or `Closed`; no pod got a copy then.
        """
        return self.send_many((payload,), settle=settle)

    def send_many(self, payloads: Iterable[bytes], *, settle: float = 0.0) -> Report:
        """Send each of `payloads` as it is produced, like `send`, following the pods meanwhile; report on all.

        An error raised by the iterable, or by one of its payloads, ends the stream: what came before it was sent.
        """
        refresher = self._open()
        tally = Tally()
        for payload in payloads:
            data = check_payload(payload)
            copies = Copies(self._transport, data, refresher.endpoints().endpoints)
            while not copies.step():
                if not _wait_writable(copies.fileno()):
                    copies.give_up()
            self._count(copies, tally)
        if settle > 0:
            time.sleep(settle)
        return self._report(tally, settled=settle > 0)

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


def _wait_writable(fileno: int | None) -> bool:
    if fileno is None:
        return True
    poll = select.poll()
    poll.register(fileno, select.POLLOUT)
    return bool(poll.poll(STALL * 1000))
