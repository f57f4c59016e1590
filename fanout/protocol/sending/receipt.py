"""What became of a confirmed message or a query: a `Receipt` a pod, in a `Confirmation`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fanout.model import Endpoint


class ReceiptStatus(StrEnum):
    """What a pod said of a message, if anything."""

    CONFIRMED = "confirmed"
    """Its handler has returned; of a query: it has replied."""
    FAILED = "failed"
    """Its handler failed, or the pod would not take the message: `reason` says why."""
    REFUSED = "refused"
    """ICMP said that nobody listens there."""
    DROPPED = "dropped"
    """The kernel here did not take a single copy: `reason` says why."""
    SILENT = "silent"
    """No answer came in time; `reason` says what is known of it all the same, such as that its handler is busy."""
    LEFT = "left"
    """It did not answer, and DNS ceased to name it meanwhile."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one message at one pod."""

    endpoint: Endpoint
    status: ReceiptStatus
    rtt: float | None = None
    """Seconds from the copy that was answered to its answer: the handler's time is part of it. None without one."""
    tries: int = 0
    """How often the message was sent to it."""
    reason: str = ""
    """Why it failed, was dropped, or is silent; one line."""
    joined: bool = False
    """Whether DNS named it only after the message had first been sent."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One pod's reply to a query."""

    endpoint: Endpoint
    payload: bytes
    rtt: float
    """Seconds from the copy of the query that it answers to its first part."""


class Confirmation:
    """What became of one confirmed message or query of `size` bytes: a `Receipt` a pod.

    `elapsed` is how long it took, `age` how old the answer of DNS is, both in seconds; `stale` says whether DNS has
    failed since, so that the last known pods were used.
    """

    __slots__ = ("age", "elapsed", "receipts", "size", "stale")

    def __init__(self, receipts: Sequence[Receipt], size: int, elapsed: float, age: float, stale: bool) -> None:
        self.receipts = tuple(receipts)
        """One a pod, in the order in which they were first attempted."""
        self.size = size
        self.elapsed = elapsed
        self.age = age
        self.stale = stale

    def having(self, status: ReceiptStatus) -> tuple[Receipt, ...]:
        """Return the receipts of that status."""
        return tuple(receipt for receipt in self.receipts if receipt.status is status)

    @property
    def confirmed(self) -> tuple[Receipt, ...]:
        """The pods whose handler has returned; of a query: that have replied."""
        return self.having(ReceiptStatus.CONFIRMED)

    @property
    def failed(self) -> tuple[Receipt, ...]:
        """The pods whose handler failed, or that would not take the message."""
        return self.having(ReceiptStatus.FAILED)

    @property
    def refused(self) -> tuple[Receipt, ...]:
        """The pods of which ICMP said that nobody listens there."""
        return self.having(ReceiptStatus.REFUSED)

    @property
    def dropped(self) -> tuple[Receipt, ...]:
        """The pods for which the kernel here did not take a single copy."""
        return self.having(ReceiptStatus.DROPPED)

    @property
    def silent(self) -> tuple[Receipt, ...]:
        """The pods that did not answer in time."""
        return self.having(ReceiptStatus.SILENT)

    @property
    def left(self) -> tuple[Receipt, ...]:
        """The pods that DNS ceased to name before they answered."""
        return self.having(ReceiptStatus.LEFT)

    @property
    def joined(self) -> tuple[Receipt, ...]:
        """The pods that DNS named only after the message had first been sent; they got it too."""
        return tuple(receipt for receipt in self.receipts if receipt.joined)

    @property
    def complete(self) -> bool:
        """Whether every pod that did not leave has confirmed, and there was one."""
        confirmed = len(self.confirmed)
        return confirmed > 0 and confirmed + len(self.left) == len(self.receipts)

    def __repr__(self) -> str:
        counts = [(status, len(self.having(status))) for status in ReceiptStatus]
        text = ", ".join(f"{count} {status}" for status, count in counts if count)
        return f"<Confirmation of {self.size} bytes: {text}; {self.elapsed:.3f} s>"
