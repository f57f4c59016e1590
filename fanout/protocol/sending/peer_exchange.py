"""One pod of an exchange: what it has, what it said, and when it is to be asked again. Pure."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from operator import gt

from fanout.model import Endpoint
from fanout.protocol.frame import PULLS_MAX, REPLIES_UNASKED, Answer, AnswerStatus, ReplyFragment, bits
from fanout.protocol.sending.receipt import Receipt, ReceiptStatus, Reply
from fanout.protocol.sending.rtt import MOST, RttEstimator

WINDOW_FIRST, WINDOW_MOST = 16, 128
"""Fragments that are sent before an answer is waited for: at first, and at most."""
_GIVE_UP_AFTER = 3
"""Bursts that ICMP refused, or the kernel did not take, before a pod is given up."""
_GIVE_UP_SECONDS = 1.0
"""Seconds since the first of them before it is: it may be starting."""
_DETAIL_MAX = 300


class PeerExchange:
    """Sends `parts` fragments to one pod in bursts, each of which ends with a question, until the pod has answered.

    A burst's answer says what is missing: that is sent again, with as much that was not sent yet as the window
    allows. The window doubles while nothing is lost, and is halved by loss. Where no answer comes, one fragment asks
    again. A query goes on with the fragments of the reply: those that do not come are pulled.
    """

    __slots__ = (
        "_attempts",
        "_counted",
        "_drops",
        "_errno",
        "_first_failure",
        "_have",
        "_is_query",
        "_jitter",
        "_known",
        "_next",
        "_parts",
        "_refusals",
        "_reply",
        "_retries",
        "_round_trip",
        "_sent_at",
        "_waiting",
        "_window",
        "endpoint",
        "is_gone",
        "joined",
        "reason",
        "reply",
        "reply_bytes",
        "rtt",
        "status",
        "tries",
        "wake",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        parts: int,
        now: float,
        *,
        joined: bool,
        is_query: bool,
        retries: int | None,
        round_trip: RttEstimator,
        jitter: Callable[[], float],
    ) -> None:
        self.endpoint = endpoint
        self.joined = joined
        self.status: ReceiptStatus | None = None
        """None as long as it may still answer."""
        self.is_gone = False
        self.rtt: float | None = None
        self.tries = 0
        self.reason = ""
        self.reply: Reply | None = None
        self.reply_bytes = 0
        self.wake = now
        """When there is something to do next."""
        self._parts = parts
        self._have = bytearray(parts)  # what the pod said that it has
        self._known = 0  # all fragments before it are there
        self._next = 0  # the first that was never sent
        self._window = WINDOW_FIRST
        self._attempts = 0  # bursts: what an answer names
        self._sent_at: dict[int, float] = {}
        self._waiting = False
        self._retries = retries
        self._round_trip = round_trip
        self._jitter = jitter
        self._is_query = is_query
        self._refusals = self._drops = self._errno = 0
        self._counted = 0  # the burst that a refusal was last counted for
        self._first_failure = math.inf
        self._reply: _Assembling | None = None

    @property
    def is_pulling(self) -> bool:
        """Whether the message is there, and the reply has to be completed."""
        return self._reply is not None

    def burst(self, now: float) -> tuple[int, tuple[int, ...]]:
        """Return the attempt, and the fragments to send now, the last of which asks; none where all tries are used."""
        was_answered = not self._waiting
        if not self._ask(now):
            return 0, ()
        if was_answered:
            positions = self._missing(self._window)
        else:
            self._window = max(1, self._window // 2)
            positions = self._missing(1)
        positions = positions or (self._parts - 1,)
        self._next = max(self._next, positions[-1] + 1)
        attempt = self._attempts
        self._attempts += 1
        self._sent_at[attempt & 0xFF] = now
        return attempt, positions

    def pulls(self, now: float) -> tuple[int, ...]:
        """Return which fragments of the reply to ask for now; none where all tries are used."""
        return self._reply.ask() if self._reply is not None and self._ask(now) else ()

    def _ask(self, now: float) -> bool:
        """Get ready to ask; False where the last question was not answered, and was the last: it still may be."""
        if self._waiting or not self.tries:
            if self._retries is not None and self.tries > self._retries:
                self.wake = math.inf
                return False
            self.tries += 1
        self._waiting = True
        self.wake = now + self._patience()
        return True

    def _missing(self, limit: int) -> tuple[int, ...]:
        found: list[int] = []
        position = self._known
        while len(found) < limit and (position := self._have.find(0, position)) >= 0:
            found.append(position)
            position += 1
        return tuple(found)

    def answered(self, answer: Answer, now: float) -> None:
        """Take what the pod said of the message."""
        if self.status is not None or not self._is_timely(answer.attempt, now):
            return
        if answer.status is AnswerStatus.CONFIRMED and self._is_query:
            self._end(ReceiptStatus.FAILED, "it replied nothing")
        elif answer.status is AnswerStatus.CONFIRMED:
            self._end(ReceiptStatus.CONFIRMED)
        elif answer.status in (AnswerStatus.FAILED, AnswerStatus.REFUSED):
            self._end(ReceiptStatus.FAILED, _text(answer.detail))
        elif answer.status is AnswerStatus.PENDING:
            self._have[:] = b"\1" * self._parts
            self._waiting = False
            self.wake = now + MOST
            self.reason = "it has the message, and its handler has not returned"
        else:
            self._partial(answer, now)

    def _is_timely(self, attempt: int, now: float) -> bool:
        """Measure the round trip of the question that was answered; False where there was none such."""
        sent_at = self._sent_at.get(attempt)
        if sent_at is None or self._reply is not None:
            return False
        self.rtt = now - sent_at
        self._round_trip.measured(self.rtt)
        return True

    def _partial(self, answer: Answer, now: float) -> None:
        if answer.attempt != (self._attempts - 1) & 0xFF:
            return  # the newest answer tells: the pod may have given up since what it had before
        before = self._have.count(1)
        first = min(answer.first_missing, self._parts - 1)
        room = self._parts - first
        present = bits(answer.detail[: -(-room // 8)])[:room]
        end = first + len(present)
        if any(map(gt, self._have[first:end], present)):
            # It gave up what it had: beyond the bitmap as well, and that is no loss on the way.
            self._have[end:] = bytes(self._parts - end)
            self._next = first
            before = 0
        self._have[:first] = b"\1" * first
        self._have[first:end] = bytes(present)
        self._known = first
        there = self._have.count(1)
        if self._parts > 1:
            self.reason = f"{there:,} of {self._parts:,} fragments have arrived"
        lost = self._have.find(0, self._known, self._next)
        self._window = max(1, self._window // 2) if lost >= 0 else min(WINDOW_MOST, self._window * 2)
        if there > before:
            self._waiting = False
            self.wake = now

    def replied(self, frame: ReplyFragment, now: float) -> None:
        """Take a fragment of the reply."""
        if self.status is not None:
            return
        if self._reply is None:
            if not self._is_timely(frame.attempt, now):
                return
            self._reply = _Assembling(frame)
            self.reason = "its reply has not arrived whole"
        before = self.reply_bytes
        self.reply_bytes = self._reply.take(frame)
        if self.reply_bytes == before and frame.payload:
            return
        if self._reply.is_whole:
            self.reply = Reply(self.endpoint, self._reply.payload(), self.rtt or 0.0)
            self._reply = None
            self._end(ReceiptStatus.CONFIRMED)
        else:
            self._waiting = False
            self.wake = now if self._reply.wants_more else now + self._patience()

    def refused(self, number: int, now: float) -> None:
        """Take an ICMP error that concerns the pod; one for each burst counts, whoever else sends to it."""
        if self._counted < self._attempts:
            self._counted = self._attempts
            self._refusals += 1
            self._failed_burst(self._refusals, number, ReceiptStatus.REFUSED, now)

    def dropped(self, number: int, now: float) -> None:
        """Take note that the kernel did not take the copies of a burst."""
        self._drops += 1
        self._failed_burst(self._drops, number, ReceiptStatus.DROPPED, now)

    def _failed_burst(self, times: int, number: int, status: ReceiptStatus, now: float) -> None:
        self._errno = number
        self._first_failure = min(self._first_failure, now)
        # What has answered before has the message, or a part of it: it may be stopping, with a handler at work.
        if times >= _GIVE_UP_AFTER and now >= self._first_failure + _GIVE_UP_SECONDS and self.rtt is None:
            self._end(status, os.strerror(number))

    def give_up(self) -> None:
        """End without an answer."""
        if self.status is not None:
            return
        if self.is_gone:
            self._end(ReceiptStatus.LEFT, self.reason)
        elif self._drops and self._drops >= self.tries:
            self._end(ReceiptStatus.DROPPED, os.strerror(self._errno))
        elif self._refusals and self.rtt is None:
            self._end(ReceiptStatus.REFUSED, os.strerror(self._errno))
        else:
            self._end(ReceiptStatus.SILENT, self.reason)

    def fail(self, reason: str) -> None:
        """End it: what the pod sends cannot be taken."""
        self._end(ReceiptStatus.FAILED, reason)

    def receipt(self) -> Receipt:
        """Return what is known; silent as long as it may still answer."""
        status = self.status or ReceiptStatus.SILENT
        return Receipt(self.endpoint, status, self.rtt, self.tries, self.reason, self.joined)

    def _end(self, status: ReceiptStatus, reason: str = "") -> None:
        self.status = status
        self.reason = reason
        if status not in (ReceiptStatus.CONFIRMED, ReceiptStatus.FAILED):
            self.rtt = None

    def _patience(self) -> float:
        return self._round_trip.patience(max(0, self.tries - 1), self._jitter())


class _Assembling:
    """A reply of which some fragments are there."""

    def __init__(self, first: ReplyFragment) -> None:
        self._size, self._total, self._parts = first.size, first.total, first.parts
        self._there: dict[int, bytes] = {}
        self._bytes = 0
        self._first_missing = 0
        self._outstanding = set(range(min(REPLIES_UNASKED, self._parts)))

    def take(self, frame: ReplyFragment) -> int:
        """Keep a fragment; return the bytes that are there."""
        if (frame.size, frame.total) == (self._size, self._total) and frame.position not in self._there:
            self._there[frame.position] = frame.payload
            self._outstanding.discard(frame.position)
            self._bytes += len(frame.payload)
        return self._bytes

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return len(self._there) == self._parts

    @property
    def wants_more(self) -> bool:
        """Whether all that was asked for has come, and more is missing."""
        return not self._outstanding

    def ask(self) -> tuple[int, ...]:
        """Return the first positions that are missing."""
        while self._first_missing in self._there:
            self._first_missing += 1
        missing: list[int] = []
        position = self._first_missing
        while position < self._parts and len(missing) < PULLS_MAX:
            if position not in self._there:
                missing.append(position)
            position += 1
        self._outstanding = set(missing)
        return tuple(missing)

    def payload(self) -> bytes:
        """Return the whole reply."""
        return b"".join(self._there[position] for position in range(self._parts))


def _text(detail: bytes) -> str:
    """Return a peer's words as one line that a terminal can show."""
    text = " ".join(detail.decode("utf-8", "replace").split())
    return "".join(character if character.isprintable() else "?" for character in text)[:_DETAIL_MAX]
