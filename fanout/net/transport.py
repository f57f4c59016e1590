"""What sends copies: the contract that `UdpTransport` and the transport in memory keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fanout.model import Endpoint
from fanout.protocol.sending.batch import Batch
from fanout.report import Fault


class Transport(Protocol):
    """Sends copies of datagrams; never blocks and never raises for one endpoint.

    * A copy is attempted exactly once, and in order: those of one message by endpoint, those of a batch as `Batch`
      says. A copy that the kernel did not take is appended to `faults`, and the next one is attempted. (What the
      kernel refused because of something else, such as an ICMP error of an earlier copy, was not attempted.)
    * Both methods attempt from position `start` on and before `stop`, and return the position of the first copy
      that was not attempted because the socket is full: `stop` where all were. Call again from there once the
      `fileno` of that copy's endpoint is writable.
    * `heard` returns the ICMP errors that came since the last call, by the endpoint that they concern; `has_heard`
      says whether some are known already.
    * `receive` returns datagrams that came back, by their source. Where it returns as many as were asked for, more
      may wait; otherwise wait until one of `readable` can be read.
    * Two calls never run at once: the sender sees to that. After `close` each of them raises `Closed`.
    """

    @property
    def gso_limit(self) -> int:
        """The largest payload, in bytes, that is worth merging into runs (see `Batch`); 0 where none is."""
        ...

    @property
    def has_heard(self) -> bool:
        """Whether `heard` has something to tell without looking for it."""
        ...

    def send(self, payload: bytes, endpoints: Sequence[Endpoint], start: int, stop: int, faults: list[Fault]) -> int:
        """Send one message to `endpoints[start:stop]`; see the type."""
        ...

    def send_batch(
        self, batch: Batch, endpoints: Sequence[Endpoint], start: int, stop: int, faults: list[Fault]
    ) -> int:
        """Send the batch's copies to `endpoints` at the positions from `start` to `stop`; see the type."""
        ...

    def heard(self) -> list[Fault]:
        """Return ICMP errors: who was refused, and how."""
        ...

    def receive(self, limit: int) -> list[tuple[bytes, Endpoint]]:
        """Return up to `limit` datagrams that have come; never block."""
        ...

    def readable(self) -> list[int]:
        """Return what to wait on for datagrams or ICMP errors: a descriptor for each socket that is open now."""
        ...

    def fileno(self, endpoint: Endpoint) -> int | None:
        """Return what to wait on for writing after a call that ended before `endpoint`; None to try at once."""
        ...

    def close(self) -> None:
        """Give the sockets back."""
        ...
