"""What `fanout bench` has measured: one `PodResult` per pod, and all of them together. No socket, no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fanout.model import Endpoint
from fanout.protocol.probe import Observed

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


class PodStatus(StrEnum):
    """Whether a pod's figures are available."""

    MEASURED = "measured"
    SILENT = "silent"
    """It did not report."""
    IMPLAUSIBLE = "implausible"
    """It reported something impossible, such as more than was sent."""


@dataclass(frozen=True, slots=True)
class PodResult:
    """What one pod saw of a run."""

    endpoint: Endpoint
    attempted: int
    """Messages of the run."""
    size: int
    """Bytes of payload in each message."""
    dropped: int = 0
    """Copies that this host's kernel did not take."""
    refused: int = 0
    """ICMP errors received."""
    errno: int = 0
    """Errno of the last drop or refusal; 0 where there was none."""
    observed: Observed | None = None
    """The pod's own report; None where there was none."""
    round_trips: tuple[float, ...] = ()
    """Seconds, in ascending order."""
    pings: int = 0
    """Pings sent; those without an answer have no entry in `round_trips`."""
    last_answer: float | None = None
    """When it last answered anything, in seconds into the run; None where it never did."""

    @property
    def status(self) -> PodStatus:
        """Whether the figures are available and plausible."""
        if self.observed is None:
            return PodStatus.SILENT
        return PodStatus.MEASURED if is_plausible(self.observed, self.attempted, self.size) else PodStatus.IMPLAUSIBLE

    @property
    def sent(self) -> int:
        """Copies that this host's kernel took."""
        return self.attempted - self.dropped

    @property
    def seen(self) -> Observed:
        """The pod's report where it is plausible, zeros otherwise."""
        return self.observed if self.observed is not None and self.status is PodStatus.MEASURED else Observed()

    @property
    def lost(self) -> int:
        """Messages that the pod did not count."""
        return self.attempted - self.seen.unique

    @property
    def loss(self) -> float | None:
        """Loss in per cent of the messages; None where unknown."""
        if self.status is not PodStatus.MEASURED:
            return None
        return 100.0 * self.lost / self.attempted if self.attempted else 0.0

    @property
    def rate(self) -> float | None:
        """Datagrams received a second, between the first and the last; None for fewer than two."""
        if self.seen.received < 2 or not self.seen.nanoseconds:
            return None
        return (self.seen.received - 1) / (self.seen.nanoseconds / 1e9)

    def round_trip(self, fraction: float) -> float | None:
        """Return a percentile of the round trips in seconds, by nearest rank; None where no ping was answered."""
        if not self.round_trips:
            return None
        return self.round_trips[max(1, math.ceil(fraction * len(self.round_trips))) - 1]

    def as_json(self) -> dict[str, Any]:
        """Return all figures in seconds, bytes and per cent; unknown ones are null."""
        seen = self.seen._asdict() if self.status is PodStatus.MEASURED else dict.fromkeys(Observed._fields)
        known = self.status is PodStatus.MEASURED
        return {
            "endpoint": str(self.endpoint),
            "status": self.status.value,
            "sent": self.sent,
            "dropped": self.dropped,
            "refused": self.refused,
            "received": seen["received"],
            "unique": seen["unique"],
            "lost": self.lost if known else None,
            "loss": rounded(self.loss, 4),
            "duplicates": seen["duplicates"],
            "reordered": seen["reordered"],
            "stale": seen["stale"],
            "bytes": seen["bytes"],
            "rate": rounded(self.rate, 3),
            "bandwidth": rounded(None if self.rate is None else self.rate * self.size * 8, 1),
            "kernel_drops": seen["kernel_drops"],
            "queue_drops": seen["queue_drops"],
            "round_trip": {
                "pings": self.pings,
                "answered": len(self.round_trips),
                **{name: rounded(self.round_trip(fraction), 9) for name, fraction in PERCENTILES.items()},
            },
            "version": seen["version"],
        }


def is_plausible(observed: Observed, attempted: int, size: int) -> bool:
    """Whether a report fits a run of `attempted` messages of `size` bytes: its counts agree, and none is too high."""
    return (
        observed.expected <= attempted
        and observed.unique <= observed.expected
        # The highest number is never reordered.
        and observed.reordered <= max(0, observed.unique - 1)
        # One batch may have one timestamp; a hundred datagrams per nanosecond between two of them are impossible.
        and (not observed.nanoseconds or observed.received <= 100 * observed.nanoseconds)
        and observed.received == observed.unique + observed.duplicates + observed.stale
        and observed.bytes == observed.received * size
    )


@dataclass(frozen=True, slots=True)
class BenchResult:
    """The result of a run."""

    pods: tuple[PodResult, ...]
    messages: int
    size: int
    elapsed: float
    """Seconds that sending took."""
    interrupted: bool = False
    ignored: int = 0
    """Replies that were ignored: from strangers, garbage, other runs."""
    stranger: Endpoint | None = None
    """An endpoint outside the list that replied."""

    @property
    def rate(self) -> float:
        """Messages sent a second to each pod."""
        return self.messages / self.elapsed if self.elapsed > 0 else 0.0

    def having(self, status: PodStatus) -> tuple[PodResult, ...]:
        """Return the pods of that status."""
        return tuple(pod for pod in self.pods if pod.status is status)

    @property
    def lost(self) -> int:
        """Copies that measured pods did not get."""
        return sum(pod.lost for pod in self.having(PodStatus.MEASURED))

    @property
    def loss(self) -> float | None:
        """Loss in per cent of the copies to the measured pods; None where none was measured."""
        measured = self.having(PodStatus.MEASURED)
        if not measured:
            return None
        return 100.0 * self.lost / (self.messages * len(measured)) if self.messages else 0.0

    @property
    def worst(self) -> PodResult | None:
        """The measured pod with the most loss; None where none was measured."""
        return max(self.having(PodStatus.MEASURED), key=lambda pod: pod.lost, default=None)

    def round_trips(self) -> PodResult:
        """Return a result that holds the round trips of all pods, for their percentiles."""
        merged = sorted(seconds for pod in self.pods for seconds in pod.round_trips)
        pings = sum(pod.pings for pod in self.pods)
        return PodResult(Endpoint("", 0), self.messages, self.size, round_trips=tuple(merged), pings=pings)

    def as_json(self) -> dict[str, Any]:
        """Return the totals and every pod."""
        every = self.round_trips()
        return {
            "messages": self.messages,
            "bytes": self.messages * self.size,
            "elapsed": round(self.elapsed, 6),
            "sent_rate": round(self.rate, 3),
            "interrupted": self.interrupted,
            "totals": {
                **{status.value: len(self.having(status)) for status in PodStatus},
                "sent": sum(pod.sent for pod in self.pods),
                "dropped": sum(pod.dropped for pod in self.pods),
                "received": sum(pod.seen.received for pod in self.pods),
                "lost": self.lost,
                "loss": rounded(self.loss, 4),
                "max_loss": rounded(self.worst.loss if self.worst is not None else None, 4),
                "duplicates": sum(pod.seen.duplicates for pod in self.pods),
                "reordered": sum(pod.seen.reordered for pod in self.pods),
                "round_trip": every.as_json()["round_trip"],
            },
            "ignored_replies": self.ignored,
            "endpoints": [pod.as_json() for pod in self.pods],
        }


def rounded(value: float | None, digits: int) -> float | None:
    """Return `value` rounded to `digits` decimals; None stays None."""
    return None if value is None else round(value, digits)


def worst_first(pods: Sequence[PodResult]) -> list[PodResult]:
    """Return the pods, those with problems first; the sort is stable."""
    return sorted(pods, key=lambda pod: (pod.loss is not None, -(pod.loss or 0.0), -(pod.round_trip(0.99) or 0.0)))
