"""One pod of an exchange: what it answered, and when to ask it again. Pure."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import NamedTuple

from fanout.model import Endpoint
from fanout.options import printable
from fanout.protocol.frame import ASK, QUERY, Answer, AnswerStatus, Cut, ReplyFragment, fragment
from fanout.protocol.sending.fragments import ReplyAssembly, SendWindow
from fanout.protocol.sending.receipt import Receipt, ReceiptStatus, Reply
from fanout.protocol.sending.rtt import MOST, RttEstimator

_GIVE_UP_AFTER = 3
"""Bursts that ICMP or the kernel refused before a pod is given up."""
_GIVE_UP_SECONDS = 1.0
"""Seconds since the first of them before a pod is given up: it may be starting."""
_DETAIL_MAX = 300
_WHOLE: tuple[int, ...] = (0,)
"""The positions of a message of one fragment."""


class OutgoingMessage(NamedTuple):
    """A message that asks for an answer: what all pods have in common."""

    sender: int
    number: int
    cut: Cut
    flags: int
    pad: int
    """Minimum bytes of a frame that asks."""
    retries: int | None
    round_trip: RttEstimator

    def frames(self, attempt: int, positions: tuple[int, ...]) -> list[bytes]:
        """Return these fragments as frames, the last of which asks."""
        sender, number, cut, flags, pad = self[:5]
        last = fragment(cut, sender, number, positions[-1], flags=flags | ASK, attempt=attempt, pad=pad)
        if len(positions) == 1:
            return [last]
        rest = [fragment(cut, sender, number, position, flags=flags, attempt=attempt) for position in positions[:-1]]
        return [*rest, last]


class _Failures:
    """Bursts that were not sent or not delivered."""

    __slots__ = ("counted", "drops", "errno", "refusals", "since")

    def __init__(self) -> None:
        self.refusals = self.drops = self.errno = 0
        self.counted = 0  # the last burst for which a refusal was counted
        self.since = math.inf


@dataclass(slots=True, eq=False)
class PeerExchange:
    """Sends a message to one pod in bursts, each of which ends with a question, until the pod has answered.

    A burst's answer says what is missing: that is sent again, together with new fragments as the window allows. Where
    no answer comes, one fragment asks again. A query goes on with the fragments of the reply: missing ones are pulled.
    """

    endpoint: Endpoint
    joined: bool
    wake: float
    """When there is something to do next; infinite where there is nothing."""
    _message: OutgoingMessage
    _window: SendWindow | None
    """None for a message of one fragment."""
    status: ReceiptStatus | None = None
    """None while it may still answer."""
    is_gone: bool = False
    rtt: float | None = None
    tries: int = 0
    reason: str = ""
    reply: ReplyAssembly | None = None
    """The reply so far; None before its first fragment."""
    _attempts: int = 0  # bursts: an answer repeats its number
    _sent_at: dict[int, float] = field(default_factory=dict)
    _is_waiting: bool = False
    _failures: _Failures | None = None

    def burst(self, now: float) -> tuple[int, tuple[int, ...]]:
        """Return the attempt and the fragments to send now, the last of which asks; none where all tries are used."""
        is_retry = self._is_waiting
        if not self._ask(now):
            return 0, ()
        positions = _WHOLE if self._window is None else self._window.burst(is_retry=is_retry)
        attempt = self._attempts
        self._attempts += 1
        self._sent_at[attempt & 0xFF] = now
        return attempt, positions

    def pulls(self, now: float) -> tuple[int, ...]:
        """Return the fragments of the reply to ask for now; none where all tries are used."""
        return self.reply.ask() if self.reply is not None and self._ask(now) else ()

    def _ask(self, now: float) -> bool:
        """Count a try and set the timer; return False where all tries are used: the last may still be answered."""
        if self._is_waiting or not self.tries:
            retries = self._message.retries
            if retries is not None and self.tries > retries:
                self.wake = math.inf
                return False
            self.tries += 1
        self._is_waiting = True
        self.wake = now + self._message.round_trip.patience(self.tries - 1)
        return True

    def answered(self, answer: Answer, now: float) -> None:
        """Record the pod's answer."""
        if self.reply is not None or not self._is_timely(answer.attempt, now):
            return
        if answer.status is AnswerStatus.CONFIRMED:
            if self._message.flags & QUERY:
                self.end(ReceiptStatus.FAILED, "it sent no reply")
            else:
                self.end(ReceiptStatus.CONFIRMED)
        elif answer.status is AnswerStatus.PENDING:
            if self._window is not None:
                self._window.all_arrived()
            self._is_waiting = False
            self.wake = now + MOST
            self.reason = "it has the message, but its handler has not returned"
        elif answer.status is AnswerStatus.PARTIAL:
            self._partial(answer, now)
        else:
            self.end(ReceiptStatus.FAILED, _text(answer.detail))

    def _is_timely(self, attempt: int, now: float) -> bool:
        """Measure the round trip of the answered attempt; return False for an unknown one."""
        sent_at = self._sent_at.get(attempt)
        if sent_at is None:
            return False
        self.rtt = now - sent_at
        self._message.round_trip.measured(self.rtt)
        return True

    def _partial(self, answer: Answer, now: float) -> None:
        # The newest answer counts: the pod may have dropped what it had before.
        if self._window is None or answer.attempt != (self._attempts - 1) & 0xFF:
            return
        has_more = self._window.record(answer.first_missing, answer.detail)
        self.reason = f"{self._window.arrived:,} of {self._message.cut.parts:,} fragments have arrived"
        if has_more:
            self._is_waiting = False
            self.wake = now

    def replied(self, frame: ReplyFragment, now: float) -> Reply | None:
        """Take a fragment of the reply; return the reply once it is complete."""
        if self.reply is None:
            if not self._is_timely(frame.attempt, now):
                return None
            self.reply = ReplyAssembly(frame)
            self.reason = "its reply has not arrived completely"
        if not self.reply.take(frame):
            return None
        if self.reply.is_whole:
            reply = Reply(self.endpoint, self.reply.join(), self.rtt or 0.0)
            self.end(ReceiptStatus.CONFIRMED)
            return reply
        self._is_waiting = False
        self.wake = now if self.reply.wants_more else now + self._message.round_trip.patience(self.tries - 1)
        return None

    @property
    def reply_bytes(self) -> int:
        """Bytes of its reply that have arrived."""
        return 0 if self.reply is None else self.reply.size

    def refused(self, number: int, now: float) -> None:
        """Record an ICMP error for the pod; at most one counts per burst, since others may send to it, too."""
        failures = self._failures = self._failures or _Failures()
        if failures.counted < self._attempts:
            failures.counted = self._attempts
            failures.refusals += 1
            self._failed(failures, failures.refusals, number, ReceiptStatus.REFUSED, now)

    def dropped(self, number: int, now: float) -> None:
        """Record that the kernel did not take the copies of a burst."""
        failures = self._failures = self._failures or _Failures()
        failures.drops += 1
        self._failed(failures, failures.drops, number, ReceiptStatus.DROPPED, now)

    def _failed(self, failures: _Failures, times: int, number: int, status: ReceiptStatus, now: float) -> None:
        failures.errno = number
        failures.since = min(failures.since, now)
        # A pod that answered before has the message, or a part of it: it may be stopping, with a handler at work.
        if times >= _GIVE_UP_AFTER and now >= failures.since + _GIVE_UP_SECONDS and self.rtt is None:
            self.end(status, os.strerror(number))

    def give_up(self) -> None:
        """End without an answer."""
        failures = self._failures or _Failures()
        if self.is_gone:
            self.end(ReceiptStatus.LEFT, self.reason)
        elif failures.drops and failures.drops >= self.tries:
            self.end(ReceiptStatus.DROPPED, os.strerror(failures.errno))
        elif failures.refusals and self.rtt is None:
            self.end(ReceiptStatus.REFUSED, os.strerror(failures.errno))
        else:
            self.end(ReceiptStatus.SILENT, self.reason)

    def end(self, status: ReceiptStatus, reason: str = "") -> None:
        """Set the final status: it is not asked any more, and its answers are ignored."""
        self.status = status
        self.reason = reason
        self.wake = math.inf
        if status is not ReceiptStatus.CONFIRMED and status is not ReceiptStatus.FAILED:
            self.rtt = None

    def receipt(self) -> Receipt:
        """Return the pod's receipt; silent while it may still answer."""
        status = self.status or ReceiptStatus.SILENT
        return Receipt(self.endpoint, status, self.rtt, self.tries, self.reason, self.joined)


def _text(detail: bytes) -> str:
    """Return a peer's text as one printable line."""
    return printable(" ".join(detail.decode("utf-8", "replace").split()))[:_DETAIL_MAX]
