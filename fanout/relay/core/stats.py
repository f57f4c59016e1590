"""What a relay has done, for tables, logs and metrics. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from fanout.relay.core.drop_reasons import RelayDrop
from fanout.report import DropReason


@dataclass(slots=True)
class IngressStats:
    """What came to one ingress: counts that only grow."""

    ingress: str
    """Its URL."""
    service: str
    waiting: str | None = None
    """Why it does not listen now, as one sentence; None where it does."""
    datagrams: int = 0
    """Datagrams that arrived, including those that were then dropped (except `KERNEL_BUFFER`)."""
    bytes: int = 0
    """Their payload."""
    forwarded: int = 0
    """Datagrams of which a copy was attempted to every pod known then."""
    dropped: dict[RelayDrop, int] = field(default_factory=dict)


@dataclass(slots=True)
class PodStats:
    """What went to one pod, through all ports: counts since it joined."""

    host: str
    service: str
    sent: int = 0
    """Copies that the kernel took."""
    bytes: int = 0
    """Their payload."""
    refused: int = 0
    """ICMP errors received."""
    dropped: dict[DropReason, int] = field(default_factory=dict)
    """Copies that the kernel did not take."""


@dataclass(slots=True)
class RelayStats:
    """A relay's counts, read at one moment."""

    ingresses: list[IngressStats]
    """In the order in which they were given."""
    pods: list[PodStats]
    """The pods that are known now, by Service and address."""
    sent: int = 0
    """Copies that the kernel took, to pods that have left as well."""
    refused: int = 0
    dropped: dict[DropReason, int] = field(default_factory=dict)
    answer_age: float | None = None
    """Seconds since DNS last answered for the Service whose answer is oldest.

    None where one never had an answer, or all are literal lists.
    """
    resolver_failures: int = 0
