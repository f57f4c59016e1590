"""Test doubles for programs that use fanout: a scripted resolver and an in-memory transport.

::

    transport = MemoryTransport()
    sender = fanout.Sender("headless-udp", resolver=ScriptedResolver("10.0.0.1,10.0.0.2"), transport=transport)
    sender.send(b"reload")
    assert transport.received("10.0.0.1") == [b"reload"]
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

from fanout.discovery.core.answer import DnsAnswer
from fanout.errors import Closed
from fanout.model import MAX_PAYLOAD, Endpoint, parse_literals
from fanout.protocol.sending.batch import Batch
from fanout.report import Fault


class ScriptedResolver:
    """Answers from a script, one entry per query; the last entry answers all further ones.

    An entry is a literal list (`"10.0.0.1,10.0.0.2:13000"`; `""` for no endpoints), a `DnsAnswer`, or an exception
    to raise. `dns_ttl` (seconds) applies to the literal lists. `asked` counts the queries.
    """

    def __init__(self, *script: str | DnsAnswer | Exception, dns_ttl: float | None = 5.0) -> None:
        if not script:
            raise ValueError("script must have at least one entry; got none")
        self.asked: int = 0
        self._script = deque(script)
        self._dns_ttl = dns_ttl
        self._lock = threading.Lock()

    def resolve(self) -> DnsAnswer:
        """Return the next answer of the script."""
        with self._lock:
            self.asked += 1
            entry = self._script[0] if len(self._script) == 1 else self._script.popleft()
        if isinstance(entry, Exception):
            raise entry
        if isinstance(entry, DnsAnswer):
            return entry
        return DnsAnswer((entry and parse_literals(entry)) or (), self._dns_ttl)


class MemoryTransport:
    """Records what is sent, with the contract of the sockets (`fanout.net.transport.Transport`).

    `faults` is the errno with which copies to an endpoint are dropped, `refusals` the one that ICMP reports after
    each copy. `room` scripts a full socket: how many copies each call takes, one entry per call; calls after the last
    entry take all. `pods` is called with each copy and returns what that pod sends back.
    """

    def __init__(
        self,
        *,
        faults: Mapping[Endpoint, int] | None = None,
        refusals: Mapping[Endpoint, int] | None = None,
        room: Sequence[int] = (),
        pods: Callable[[bytes, Endpoint], Iterable[bytes]] | None = None,
    ) -> None:
        self.sent: list[tuple[Endpoint, bytes]] = []
        self.attempted: list[Endpoint] = []
        self.faults: dict[Endpoint, int] = dict(faults or {})
        self.refusals: dict[Endpoint, int] = dict(refusals or {})
        self.closed: bool = False
        self.has_icmp_errors: bool = False
        """See `Transport`."""
        self._room = deque(room)
        self._icmp_errors: list[Fault] = []
        self._pods = pods
        self._answers: list[tuple[bytes, Endpoint]] = []
        self._lock = threading.Lock()

    def received(self, host: str, port: int | None = None) -> list[bytes]:
        """Return the payloads that were sent to `host`, in order."""
        return [payload for endpoint, payload in self.sent if endpoint.host == host and port in (None, endpoint.port)]

    @property
    def gso_limit(self) -> int:
        """See `Transport`."""
        return MAX_PAYLOAD

    def send(self, payload: bytes, endpoints: Sequence[Endpoint], start: int, stop: int, faults: list[Fault]) -> int:
        """See `Transport`."""
        reached = self._reach(start, stop)
        for endpoint in endpoints[start:reached]:
            self._attempt(payload, endpoint, 0, faults)
        return reached

    def send_batch(
        self, batch: Batch, endpoints: Sequence[Endpoint], start: int, stop: int, faults: list[Fault]
    ) -> int:
        """See `Transport`."""
        reached = self._reach(start, stop)
        for position in range(start, reached):
            message, pod = batch.copy_at(position, len(endpoints))
            self._attempt(batch.payloads[message], endpoints[pod], message, faults)
        return reached

    def _reach(self, start: int, stop: int) -> int:
        self._check_open()
        return min(stop, start + self._room.popleft()) if self._room else stop

    def _attempt(self, payload: bytes, endpoint: Endpoint, message: int, faults: list[Fault]) -> None:
        self.attempted.append(endpoint)
        if endpoint in self.faults:
            faults.append(Fault(endpoint, self.faults[endpoint], message))
            return
        self.sent.append((endpoint, payload))
        if self._pods is not None:
            for datagram in self._pods(payload, endpoint):
                self.answer(datagram, endpoint)
        if endpoint in self.refusals:
            with self._lock:
                self._icmp_errors.append(Fault(endpoint, self.refusals[endpoint]))
                self.has_icmp_errors = True

    def icmp_errors(self) -> list[Fault]:
        """See `Transport`."""
        self._check_open()
        with self._lock:
            errors, self._icmp_errors, self.has_icmp_errors = self._icmp_errors, [], False
        return errors

    def answer(self, datagram: bytes, source: Endpoint) -> None:
        """Queue a datagram to be received as if from `source`."""
        with self._lock:
            bell = self._bell[1]
            if not self._answers:
                bell.send(b"\0")
            self._answers.append((datagram, source))

    def receive(self, limit: int) -> list[tuple[bytes, Endpoint]]:
        """See `Transport`."""
        with self._lock:
            bell, taken = self._bell[0], self._answers[:limit]
            del self._answers[:limit]
            if taken and not self._answers:
                bell.recv(1)
            return taken

    def readable(self) -> list[int]:
        """See `Transport`."""
        return [self._bell[0].fileno()]

    @cached_property
    def _bell(self) -> tuple[socket.socket, socket.socket]:
        """Holds a byte while datagrams wait. Raises `Closed` after `close`, which removes it."""
        self._check_open()
        return socket.socketpair()

    def fileno(self, endpoint: Endpoint) -> int | None:
        """See `Transport`: never necessary in memory."""
        self._check_open()
        return None

    def close(self) -> None:
        """See `Transport`."""
        self.closed = True
        for opened in vars(self).pop("_bell", ()):
            opened.close()

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("the sender was closed while it sent")
