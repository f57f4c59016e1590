"""The contract of what sends copies: `UdpTransport`, and an in-memory transport for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fanout.model import Endpoint
from fanout.protocol.sending.batch import Batch
from fanout.report import Fault


class Transport(Protocol):
    """Sends copies of datagrams; never blocks and never raises for one endpoint.

    * A copy is attempted exactly once, and in order: those of one message by endpoint, those of a batch as `Batch`
      says. A copy that the kernel did not take is appended to `faults`, and the next one is attempted. (A send that
      failed for something else, such as an ICMP error of an earlier copy, does not count as an attempt.)
    * Both send methods attempt the positions from `start` to before `stop`, and return the position of the first copy
      not attempted because the socket is full: `stop` where all were. Call again from there once the `fileno` of that
      copy's endpoint is writable.
    * `icmp_errors` returns the ICMP errors since the last call, with the endpoints they concern; `has_icmp_errors` says
      whether some are known already.
    * `receive` returns datagrams that came back, with their source. Where it returns `limit` of them, more may wait;
      otherwise wait until one of `readable` can be read.
    * Calls never overlap: the sender ensures that. After `close` each of them raises `Closed`.
    """

    @property
    def gso_limit(self) -> int:
        """The largest payload, in bytes, worth merging into runs (see `Batch`); 0 for none."""
        ...

    @property
    def has_icmp_errors(self) -> bool:
        """Whether `icmp_errors` has something to return without a system call."""
        ...

    def send(self, payload: bytes, endpoints: Sequence[Endpoint], start: int, stop: int, faults: list[Fault]) -> int:
        """Send one message to `endpoints[start:stop]`; see the type."""
        ...

    def send_batch(
        self, batch: Batch, endpoints: Sequence[Endpoint], start: int, stop: int, faults: list[Fault]
    ) -> int:
        """Send the batch's copies to `endpoints` at the positions from `start` to `stop`; see the type."""
        ...

    def icmp_errors(self) -> list[Fault]:
        """Return the ICMP errors: endpoints and errnos."""
        ...

    def receive(self, limit: int) -> list[tuple[bytes, Endpoint]]:
        """Return up to `limit` datagrams that have arrived; never block."""
        ...

    def readable(self) -> list[int]:
        """Return the descriptors to wait on for datagrams or ICMP errors: one for each open socket."""
        ...

    def fileno(self, endpoint: Endpoint) -> int | None:
        """Return the descriptor to wait on after a call that stopped at `endpoint`; None to retry at once."""
        ...

    def close(self) -> None:
        """Close the sockets."""
        ...
