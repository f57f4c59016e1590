"""What became of a message, or of a stream of them: one `Outcome` per pod, in a `Report`. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from fanout.model import Endpoint


class Status(StrEnum):
    """What became of one pod's copy of a message."""

    SENT = "sent"
    """The kernel took it; says nothing about delivery."""
    REFUSED = "refused"
    """ICMP said that it was not delivered."""
    DROPPED = "dropped"
    """The kernel did not take it."""


class DropReason(StrEnum):
    """Why the kernel did not take a copy; the only source of such labels in reports, logs and metrics."""

    NOT_PERMITTED = "not_permitted"
    UNREACHABLE = "unreachable"
    NO_BUFFER = "no_buffer"
    TOO_LARGE = "too_large"
    INVALID_ADDRESS = "invalid_address"
    OTHER = "other"

    @classmethod
    def of(cls, number: int) -> DropReason:
        """Return the reason for an errno."""
        return _REASONS.get(number, cls.OTHER)


_REASONS = {
    errno.EPERM: DropReason.NOT_PERMITTED,
    errno.EACCES: DropReason.NOT_PERMITTED,
    errno.ENETUNREACH: DropReason.UNREACHABLE,
    errno.EHOSTUNREACH: DropReason.UNREACHABLE,
    errno.ENETDOWN: DropReason.UNREACHABLE,
    errno.ENOBUFS: DropReason.NO_BUFFER,
    errno.ENOMEM: DropReason.NO_BUFFER,
    errno.EAGAIN: DropReason.NO_BUFFER,
    errno.EMSGSIZE: DropReason.TOO_LARGE,
    errno.EINVAL: DropReason.INVALID_ADDRESS,
    errno.EAFNOSUPPORT: DropReason.INVALID_ADDRESS,
    errno.EADDRNOTAVAIL: DropReason.INVALID_ADDRESS,
}


class Fault(NamedTuple):
    """One errno for one pod: from the send itself, or from ICMP afterwards."""

    endpoint: Endpoint
    errno: int
    message: int = 0
    """Index in its batch of the message whose copy was not taken."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the copies for one pod. `sent + dropped` is what was attempted."""

    endpoint: Endpoint
    sent: int = 0
    """Datagrams that the kernel took. A queue behind it may silently drop parts of a GSO run."""
    refused: int = 0
    """ICMP errors received for this pod; may concern an earlier message (see `Sender.send`)."""
    dropped: int = 0
    """Datagrams that the kernel did not take."""
    errno: int = 0
    """Errno of the last refusal or drop; 0 where there was none."""

    @property
    def status(self) -> Status:
        """The worst that happened to this pod's copies."""
        if self.dropped:
            return Status.DROPPED
        return Status.REFUSED if self.refused else Status.SENT

    @property
    def reason(self) -> DropReason | None:
        """Why copies were dropped; None where none were."""
        return DropReason.of(self.errno) if self.dropped else None


Run = tuple[tuple[Endpoint, ...], int]
"""Pods, and how many datagrams in a row were attempted to each of them."""
Counts = Mapping[tuple[Endpoint, int], int]
"""Copies by endpoint and errno."""
_NONE: Counts = {}
_RUNS_MAX = 64


class Tally:
    """Counts of one call to send: filled by the sender, read as a `Report`."""

    __slots__ = ("_fold_at", "drops", "messages", "refusals", "runs", "size")

    def __init__(self) -> None:
        self._fold_at = _RUNS_MAX
        self.messages: int = 0
        self.size: int = 0
        self.runs: list[Run] = []
        self.drops: dict[tuple[Endpoint, int], int] = {}
        self.refusals: dict[tuple[Endpoint, int], int] = {}

    def attempted(
        self, endpoints: tuple[Endpoint, ...], size: int, messages: int = 1, datagrams: int | None = None
    ) -> None:
        """Count messages of `size` bytes in total, attempted to each of `endpoints` in `datagrams` datagrams."""
        self.messages += messages
        self.size += size
        count = messages if datagrams is None else datagrams
        if self.runs and self.runs[-1][0] is endpoints:
            count += self.runs.pop()[1]
        self.runs.append((endpoints, count))
        if len(self.runs) > self._fold_at:
            # The pods change often during a long stream: keep counts, not every set of pods.
            self.runs = [((endpoint,), count) for endpoint, count in _attempts(self.runs).items()]
            self._fold_at = len(self.runs) + _RUNS_MAX

    def dropped(self, faults: Iterable[Fault]) -> None:
        """Count copies that the kernel did not take."""
        _add(self.drops, faults)

    def refused(self, faults: Iterable[Fault]) -> None:
        """Count ICMP errors."""
        _add(self.refusals, faults)


def _add(counts: dict[tuple[Endpoint, int], int], faults: Iterable[Fault]) -> None:
    for fault in faults:
        key = (fault.endpoint, fault.errno)
        counts[key] = counts.get(key, 0) + 1


def _attempts(runs: Sequence[Run]) -> dict[Endpoint, int]:
    attempts: dict[Endpoint, int] = {}
    for endpoints, count in runs:
        for endpoint in endpoints:
            attempts[endpoint] = attempts.get(endpoint, 0) + count
    return attempts


def _by_endpoint(counts: Counts) -> tuple[dict[Endpoint, int], dict[Endpoint, int]]:
    sums: dict[Endpoint, int] = {}
    errnos: dict[Endpoint, int] = {}
    for (endpoint, number), count in counts.items():
        sums[endpoint] = sums.get(endpoint, 0) + count
        errnos[endpoint] = number
    return sums, errnos


class Report:
    """What became of a message, or of a stream of them: one `Outcome` per pod.

    `messages` and `size` (bytes of payload) count each message once, `age` is the age of the DNS answer in seconds,
    and `stale` says whether DNS has failed since, so that the last known pods were used.
    """

    __slots__ = ("_drops", "_outcomes", "_refusals", "_runs", "age", "messages", "size", "stale")

    def __init__(
        self,
        messages: int,
        size: int,
        runs: Sequence[Run],
        age: float,
        stale: bool,
        drops: Counts = _NONE,
        refusals: Counts = _NONE,
    ) -> None:
        self.messages: int = messages
        self.size: int = size
        self.age: float = age
        self.stale: bool = stale
        self._runs = runs
        self._drops = drops
        self._refusals = refusals
        self._outcomes: tuple[Outcome, ...] | None = None

    @classmethod
    def of(cls, tally: Tally, age: float, stale: bool) -> Report:
        """Return the report of what was counted."""
        return cls(tally.messages, tally.size, tally.runs, age, stale, tally.drops, tally.refusals)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """One per pod, in the order first attempted, including pods that joined or left meanwhile."""
        if self._outcomes is None:
            self._outcomes = self._count()
        return self._outcomes

    def _count(self) -> tuple[Outcome, ...]:
        attempts = _attempts(self._runs)
        dropped, drop_errno = _by_endpoint(self._drops)
        refused, refusal_errno = _by_endpoint(self._refusals)
        for endpoint in refused:
            attempts.setdefault(endpoint, 0)
        return tuple(
            Outcome(
                endpoint,
                sent=count - dropped.get(endpoint, 0),
                refused=refused.get(endpoint, 0),
                dropped=dropped.get(endpoint, 0),
                errno=drop_errno.get(endpoint) or refusal_errno.get(endpoint, 0),
            )
            for endpoint, count in attempts.items()
        )

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every pod of this report."""
        return tuple(outcome.endpoint for outcome in self.outcomes)

    @property
    def sent(self) -> tuple[Outcome, ...]:
        """The pods whose every copy the kernel took, without an ICMP error."""
        return self._having(Status.SENT)

    @property
    def refused(self) -> tuple[Outcome, ...]:
        """The pods for which ICMP reported a copy as not delivered."""
        return self._having(Status.REFUSED)

    @property
    def dropped(self) -> tuple[Outcome, ...]:
        """The pods for which the kernel refused a copy."""
        return self._having(Status.DROPPED)

    @property
    def complete(self) -> bool:
        """Whether every pod is in `sent`."""
        return len(self.sent) == len(self.outcomes)

    def _having(self, status: Status) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.status is status)

    def __repr__(self) -> str:
        return (
            f"<Report of {self.messages} message(s): {len(self.sent)} sent, {len(self.refused)} refused, "
            f"{len(self.dropped)} dropped; age {self.age:.1f} s{', stale' if self.stale else ''}>"
        )
