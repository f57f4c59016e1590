"""What the SSDP relay has done, for tables, logs and metrics. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fanout.ssdp.core.drop_reasons import HttpFailure, SsdpDrop


@dataclass(slots=True)
class HttpCounts:
    """What went through the relay's HTTP ports: counts that only grow, except `connections` and `subscriptions`."""

    requests: dict[int, int] = field(default_factory=Counter)
    """By the relay's port."""
    bytes: dict[int, int] = field(default_factory=Counter)
    """Bytes of bodies sent to clients, by the relay's port."""
    statuses: dict[int, int] = field(default_factory=Counter)
    """Answers by the first digit of their status."""
    failures: dict[HttpFailure, int] = field(default_factory=Counter)
    rewritten: int = 0
    """URLs of pods that were replaced by URLs of the relay."""
    left: int = 0
    """URLs of pods for which no port was left: passed on unchanged."""
    events: int = 0
    """Events that subscribers accepted."""
    connections: int = 0
    """Open now."""
    subscriptions: int = 0
    """In force now."""

    def copy(self) -> HttpCounts:
        """Return the counts of this moment, in plain dictionaries."""
        counted = dict(self.requests), dict(self.bytes), dict(self.statuses), dict(self.failures)
        return HttpCounts(*counted, self.rewritten, self.left, self.events, self.connections, self.subscriptions)


@dataclass(slots=True)
class DeviceStats:
    """One device that is announced now."""

    udn: str
    pod: str
    """The address of its pod."""
    location: str
    """Its LOCATION on the LAN."""
    name: str = ""
    """Its friendly name; empty if its description was not read."""
    requests: int = 0
    bytes: int = 0
    """Through the port of its LOCATION, which devices of one pod may share."""


@dataclass(slots=True)
class SsdpStats:
    """An SSDP relay's counts, read at one moment."""

    devices: list[DeviceStats] = field(default_factory=list)
    """In the order in which they appeared."""
    searches: int = 0
    """Datagrams from the LAN other than announcements, including those that were then dropped."""
    answers: int = 0
    """Answers sent to clients."""
    sessions: int = 0
    """Searches in progress now."""
    announcements: dict[str, int] = field(default_factory=Counter)
    """NOTIFYs sent on the LAN, by NTS."""
    foreign: int = 0
    """LOCATIONs that name another host than the pod: passed on unchanged."""
    dropped: dict[SsdpDrop, int] = field(default_factory=Counter)
    http: HttpCounts = field(default_factory=HttpCounts)
    endpoints: int = 0
    """Pods known now."""
    answer_age: float | None = None
    """Seconds since DNS last answered; None where it never has, or the Service is a literal list."""
    resolver_failures: int = 0
