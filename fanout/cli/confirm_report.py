"""What became of confirmed messages and queries at each pod: in lines for people, and as JSON."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from fanout.cli.output import milliseconds, plural
from fanout.errno_text import sending
from fanout.model import Endpoint
from fanout.protocol.sending.receipt import Confirmation, Receipt, ReceiptStatus

_WELL = (ReceiptStatus.CONFIRMED, ReceiptStatus.LEFT)
"""Statuses that do not lead to exit code 4."""


@dataclass(slots=True)
class PodTally:
    """What became of all messages at one pod."""

    endpoint: Endpoint
    joined: bool
    counts: dict[ReceiptStatus, int] = field(default_factory=lambda: dict.fromkeys(ReceiptStatus, 0))
    tries: int = 0
    reason: str = ""
    """Of the last message that was not confirmed."""
    _last: ReceiptStatus = ReceiptStatus.SILENT
    _trouble: ReceiptStatus | None = None
    _round_trips: float = 0.0
    _was_cut: bool = False

    def add(self, receipt: Receipt, *, is_cut: bool = False) -> None:
        """Take another message into account; `is_cut` says that it left in several fragments."""
        self._was_cut |= is_cut
        self.counts[receipt.status] += 1
        self.tries += receipt.tries
        self._last = receipt.status
        if receipt.status is ReceiptStatus.CONFIRMED:
            self._round_trips += receipt.rtt or 0.0
        else:
            self.reason = receipt.reason
            if receipt.status not in _WELL:
                self._trouble = receipt.status

    @property
    def status(self) -> ReceiptStatus:
        """Of the last message that went wrong; where none did, of the last one."""
        return self._trouble or self._last

    @property
    def rtt(self) -> float | None:
        """Seconds to a confirmation, on average."""
        confirmed = self.counts[ReceiptStatus.CONFIRMED]
        return self._round_trips / confirmed if confirmed else None

    @property
    def took(self) -> str:
        """Return the same in words; empty where a message was cut: its last fragments do not show the time."""
        return "" if self._was_cut or self.rtt is None else f" in {milliseconds(self.rtt)} ms"

    @property
    def messages(self) -> int:
        """Messages that were sent to it."""
        return sum(self.counts.values())


class ConfirmTally:
    """What became of one or many messages that were confirmed one after the other."""

    def __init__(self) -> None:
        self.messages: int = 0
        self.size: int = 0
        self.elapsed: float = 0.0
        """Seconds that the messages took, the time between them left out."""
        self.age: float | None = None
        """Of the answer of DNS, when the last message that was not interrupted was over; None without one."""
        self.stale: bool | None = None
        self.complete: bool = True
        """Whether every pod has confirmed every message that was sent before it left."""
        self._pods: dict[Endpoint, PodTally] = {}

    def add(self, confirmation: Confirmation, *, is_cut: bool = False) -> None:
        """Take another message into account; `is_cut` says that it left in several fragments."""
        self.age, self.stale = confirmation.age, confirmation.stale
        self._count(confirmation, is_cut)

    def add_interrupted(self, receipts: Sequence[Receipt], size: int, elapsed: float, *, is_cut: bool = False) -> None:
        """Count an interrupted message; without receipts it does not count as sent."""
        self.complete = False
        if receipts:
            self._count(Confirmation(receipts, size, elapsed, 0.0, False), is_cut)

    def _count(self, confirmation: Confirmation, is_cut: bool) -> None:
        for receipt in confirmation.receipts:
            pod = self._pods.get(receipt.endpoint)
            if pod is None:
                pod = self._pods[receipt.endpoint] = PodTally(receipt.endpoint, receipt.joined or self.messages > 0)
            pod.add(receipt, is_cut=is_cut)
        self.complete &= confirmation.complete
        self.messages += 1
        self.size += confirmation.size
        self.elapsed += confirmation.elapsed

    @property
    def dns(self) -> str:
        """Return that DNS does not answer, in words; empty where it does."""
        if not self.stale or self.age is None:
            return ""
        return f"; DNS does not answer; its last answer is {self.age:.0f} s old"

    @property
    def dns_json(self) -> dict[str, float | bool | None]:
        """Return the age of the answer of DNS; null where it is unknown."""
        return {"answer_age": None if self.age is None else round(self.age, 3), "stale": self.stale}

    @property
    def pods(self) -> list[PodTally]:
        """All pods, in the order in which they were first attempted."""
        return list(self._pods.values())


def lines(tally: ConfirmTally) -> list[str]:
    """Return a line a pod, and what to look at where pods are silent."""
    said = [pod_line(pod, tally.elapsed) if tally.messages == 1 else _stream_line(pod) for pod in tally.pods]
    return [*said, *filter(None, [hint(tally.pods)])]


def pod_line(pod: PodTally, elapsed: float) -> str:
    """Return what became of one message at a pod, in words."""
    where, tries = str(pod.endpoint), plural(pod.tries, "try").replace("trys", "tries")
    match pod.status:
        case ReceiptStatus.CONFIRMED:
            notes = [tries] * (pod.tries > 1) + ["joined meanwhile"] * pod.joined
            noted = f" ({', '.join(notes)})" if notes else ""
            return f"confirmed by {where}{pod.took}{noted}"
        case ReceiptStatus.FAILED:
            said = f"failed at {where}: {pod.reason or 'it gives no reason'}"
        case ReceiptStatus.SILENT:
            reason = f": {pod.reason}" if pod.reason else ""
            said = f"silent: {where} did not answer in {elapsed:.2g} s ({tries}){reason}"
        case ReceiptStatus.LEFT:
            said = f"left: {where} did not answer ({tries}), and is no longer in DNS"
            return click.style(said, fg="yellow")
        case _:
            said = f"{pod.status}: {_why(pod)}"
    return click.style(said, fg="red")


def hint(pods: list[PodTally]) -> str | None:
    """Return what to check where pods have sent nothing at all."""
    mute = [pod for pod in pods if pod.status is ReceiptStatus.SILENT and not pod.reason]
    if not mute:
        return None
    those = "it" if len(mute) == 1 else "them"
    return click.style(
        f"nothing came from {those}: does a fanout receiver listen there, is it stuck, do the keys differ, "
        "or does a NetworkPolicy keep UDP or its answers back?",
        fg="yellow",
    )


def _why(pod: PodTally) -> str:
    """Return why copies were refused or dropped: the receipt has the name of an errno."""
    number = next((number for number in errno.errorcode if os.strerror(number) == pod.reason), None)
    return f"{pod.endpoint}: {pod.reason}" if number is None else sending(pod.endpoint, number)


def _stream_line(pod: PodTally) -> str:
    confirmed = pod.counts[ReceiptStatus.CONFIRMED]
    took = pod.took and f"{pod.took} on average"
    others = [f"{count} {status}" for status, count in pod.counts.items() if count and status in _OTHERS]
    if not others:
        return f"confirmed {plural(confirmed, 'message')} by {pod.endpoint}{took}"
    reason = f" ({pod.reason})" if pod.reason else ""
    said = f"confirmed {confirmed} of {pod.messages} messages by {pod.endpoint}{took}; {', '.join(others)}{reason}"
    return click.style(said, fg="yellow" if pod.status in _WELL else "red")


_OTHERS = tuple(status for status in ReceiptStatus if status is not ReceiptStatus.CONFIRMED)


def pods_by_status(pods: list[PodTally]) -> dict[ReceiptStatus, int]:
    """Return how many pods there are of each status."""
    counts = dict.fromkeys(ReceiptStatus, 0)
    for pod in pods:
        counts[pod.status] += 1
    return counts


def seconds(elapsed: float) -> str:
    """Return a duration in words."""
    return f"{elapsed:.2g} s" if elapsed >= 0.1 else f"{milliseconds(elapsed)} ms"


def pod_json(pod: PodTally) -> dict[str, Any]:
    """Return what became of one message, or of many, at a pod."""
    return {
        "endpoint": str(pod.endpoint),
        "status": pod.status.value,
        "rtt": None if pod.rtt is None else round(pod.rtt, 6),
        "tries": pod.tries,
        "reason": pod.reason or None,
        "joined": pod.joined,
    }
