"""What became of a confirmed message or a query: a `Receipt` per pod, in a `Confirmation`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fanout.model import Endpoint


class ReceiptStatus(StrEnum):
    """What a pod answered to a message, if anything."""

    CONFIRMED = "confirmed"
    """Its handler has returned; of a query: it has replied."""
    FAILED = "failed"
    """Its handler failed, or the pod refused the message: `reason` says why."""
    REFUSED = "refused"
    """ICMP said that nothing listens there."""
    DROPPED = "dropped"
    """The local kernel did not take a single copy: `reason` says why."""
    SILENT = "silent"
    """No final answer came in time; `reason` says what is known, such as that its handler is busy."""
    LEFT = "left"
    """It did not answer, and DNS stopped naming it meanwhile."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one message at one pod."""

    endpoint: Endpoint
    status: ReceiptStatus
    rtt: float | None = None
    """Seconds from the answered copy to its answer, including the handler's time; None without an answer."""
    tries: int = 0
    """How often the message was sent to it."""
    reason: str = ""
    """Why it failed, was dropped, or is silent; one line."""
    joined: bool = False
    """Whether DNS named it only after the message was first sent."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One pod's reply to a query."""

    endpoint: Endpoint
    payload: bytes
    rtt: float
    """Seconds from the answered copy of the query to the first part of the reply."""


class Confirmation:
    """What became of one confirmed message or query of `size` bytes: a `Receipt` per pod.

    `elapsed` is how long it took and `age` the age of the DNS answer, in seconds; `stale` says whether DNS has failed
    since, so that the last known pods were used.
    """

    __slots__ = ("age", "elapsed", "receipts", "size", "stale")

    def __init__(self, receipts: Sequence[Receipt], size: int, elapsed: float, age: float, stale: bool) -> None:
        self.receipts: tuple[Receipt, ...] = tuple(receipts)
        """One per pod, in the order first attempted."""
        self.size: int = size
        self.elapsed: float = elapsed
        self.age: float = age
        self.stale: bool = stale

    def having(self, status: ReceiptStatus) -> tuple[Receipt, ...]:
        """Return the receipts of that status."""
        return tuple(receipt for receipt in self.receipts if receipt.status is status)

    @property
    def confirmed(self) -> tuple[Receipt, ...]:
        """The pods whose handler has returned; for a query, those that have replied."""
        return self.having(ReceiptStatus.CONFIRMED)

    @property
    def failed(self) -> tuple[Receipt, ...]:
        """The pods whose handler failed, or that refused the message."""
        return self.having(ReceiptStatus.FAILED)

    @property
    def refused(self) -> tuple[Receipt, ...]:
        """The pods where, as ICMP said, nothing listens."""
        return self.having(ReceiptStatus.REFUSED)

    @property
    def dropped(self) -> tuple[Receipt, ...]:
        """The pods for which the local kernel did not take a single copy."""
        return self.having(ReceiptStatus.DROPPED)

    @property
    def silent(self) -> tuple[Receipt, ...]:
        """The pods that did not answer in time."""
        return self.having(ReceiptStatus.SILENT)

    @property
    def left(self) -> tuple[Receipt, ...]:
        """The pods that DNS stopped naming before they answered."""
        return self.having(ReceiptStatus.LEFT)

    @property
    def joined(self) -> tuple[Receipt, ...]:
        """The pods that DNS named only after the message was first sent; they got it, too."""
        return tuple(receipt for receipt in self.receipts if receipt.joined)

    @property
    def complete(self) -> bool:
        """Whether every pod that did not leave has confirmed, and at least one has."""
        confirmed = len(self.confirmed)
        return confirmed > 0 and confirmed + len(self.left) == len(self.receipts)

    def __repr__(self) -> str:
        counts = [(status, len(self.having(status))) for status in ReceiptStatus]
        text = ", ".join(f"{count} {status}" for status, count in counts if count)
        return f"<Confirmation of {self.size} bytes: {text}; {self.elapsed:.3f} s>"
