"""The known pods of one Service: answers and failures in, joined and left pods out. Pure.

The rules:

* A pod joins with the first answer that names it.
* A pod leaves with the second answer in a row that does not name it: servers may differ for a few seconds, and an
  answer can be late. An empty answer and NXDOMAIN are the case where all pods leave.
* A failure (timeout, SERVFAIL, garbage) changes only the age: the last known pods are kept.
* The next query is due after the answer's TTL, clamped to 1..30 s and jittered; sooner where an answer
  waits for its confirmation; after a failure with a back-off from 1 to 5 s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from fanout.discovery.core.answer import DnsAnswer, Refusal
from fanout.model import Endpoint

TTL_MIN = 1.0
TTL_MAX = 30.0
TTL_UNKNOWN = 5.0
"""TTL of an answer without records, in seconds: what CoreDNS uses for headless Services."""
CONFIRM_AFTER = 0.25
"""Seconds between an answer that lacks known pods and the query that confirms it."""
RETRY_MIN = 1.0
RETRY_MAX = 5.0


class Change(NamedTuple):
    """The pods that joined and left with one answer."""

    joined: tuple[Endpoint, ...]
    left: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """The known pods of a Service at one moment; an immutable snapshot."""

    endpoints: tuple[Endpoint, ...] = ()
    """Sorted by `Endpoint.sort_key`; the same object while nothing changes."""
    answered_at: float | None = None
    """On the clock of `now`; None where DNS has never answered."""
    failure: str | None = None
    """Why the last query failed; None where it was answered."""
    failures: int = 0
    """Failed queries so far."""
    settled: bool = False
    """Whether an answer has been accepted; a first empty one is accepted after its confirmation."""
    refused: frozenset[Refusal] = frozenset()
    """Refused addresses of the last answer."""

    def age(self, now: float) -> float | None:
        """Return the seconds since DNS last answered; None where it never has."""
        return None if self.answered_at is None else max(0.0, now - self.answered_at)


class EndpointSet:
    """Follows the pods of one Service. Not thread-safe: one owner updates it, and publishes `known`."""

    def __init__(self) -> None:
        self.known: Known = Known()
        self.next_wakeup: float | None = None
        """When to query again, on the clock of `now`; None for never."""
        self._missing: frozenset[Endpoint] = frozenset()
        self._unconfirmed_empty = False
        self._failures_in_a_row = 0

    def answered(self, answer: DnsAnswer, now: float, jitter: float = 0.5) -> Change:
        """Record an answer that arrived at `now`; `jitter` is a random number from 0 to 1."""
        before = self.known
        named, known = frozenset(answer.endpoints), frozenset(before.endpoints)
        missing = known - named
        left = missing & self._missing
        joined = named - known
        self._missing = missing - left
        self._failures_in_a_row = 0
        first_empty = not before.settled and not named and not self._unconfirmed_empty
        self._unconfirmed_empty = first_empty
        self.known = Known(
            _ordered((known | joined) - left) if joined or left else before.endpoints,
            answered_at=now,
            failures=before.failures,
            settled=before.settled or not first_empty,
            refused=frozenset(answer.refused),
        )
        if self._missing or first_empty:
            self.next_wakeup = now + CONFIRM_AFTER
        elif answer.dns_ttl is None and named:
            self.next_wakeup = None
        else:
            dns_ttl = TTL_UNKNOWN if answer.dns_ttl is None else answer.dns_ttl
            self.next_wakeup = now + min(max(dns_ttl, TTL_MIN), TTL_MAX) * (0.9 + 0.2 * jitter)
        return Change(_ordered(joined), _ordered(left))

    def failed(self, reason: str, now: float, jitter: float = 0.5) -> None:
        """Record a failure at `now`; known pods are kept."""
        self.known = replace(self.known, failure=reason, failures=self.known.failures + 1)
        delay = min(RETRY_MIN * 2.0 ** min(self._failures_in_a_row, 8), RETRY_MAX)
        self._failures_in_a_row += 1
        self.next_wakeup = now + delay * (0.9 + 0.2 * jitter)


def _ordered(endpoints: frozenset[Endpoint]) -> tuple[Endpoint, ...]:
    return tuple(sorted(endpoints, key=lambda endpoint: endpoint.sort_key))
