"""A receiver's answers: only what was asked for, and not larger than the question unless that is safe. Pure."""

from __future__ import annotations

from typing import Protocol

from fanout.protocol import frame
from fanout.protocol.frame import (
    ANSWER_OVERHEAD,
    FRAGMENT_MIN,
    REPLIES_UNASKED,
    REPLY_OVERHEAD,
    AnswerStatus,
    Cut,
    Pull,
)
from fanout.protocol.receiving.dedup import HandlingResult, Kept

_FRAGMENT_MOST = 0xFFFF


class QuestionId(Protocol):
    """What an answer repeats of its question."""

    @property
    def sender(self) -> int:
        """Who asks."""

    @property
    def number(self) -> int:
        """Number of the message asked about."""

    @property
    def attempt(self) -> int:
        """How often it was sent before."""


class AnswerBuilder:
    """Makes answers to a question of `size` bytes, without its seal: no answer is larger.

    Replies may be larger with `replies_to_anyone`.
    """

    def __init__(self, identity: int, replies_to_anyone: bool) -> None:
        self.identity = identity
        self.replies_to_anyone = replies_to_anyone
        self.replies: int = 0
        """Replies sent, once or more often."""

    def answer(
        self,
        asked: QuestionId,
        size: int,
        status: AnswerStatus,
        detail: bytes = b"",
        first_missing: int = 0,
    ) -> bytes:
        """Return an answer, its detail truncated to the size."""
        detail = detail[: size - ANSWER_OVERHEAD]
        if status is not AnswerStatus.PARTIAL:
            detail = detail.decode("utf-8", "ignore").encode()  # no half character at the end
        return frame.answer(
            self.identity, asked.number, asked.sender, asked.attempt, status, first_missing=first_missing, detail=detail
        )

    def result(self, result: HandlingResult, asked: QuestionId, size: int) -> list[bytes]:
        """Return the answer to a question about a message that was settled."""
        kept = result.reply
        if kept is None:
            return [self.answer(asked, size, result.status, result.detail)]
        why_not = self.why_no_reply(len(kept.payload), size)
        if why_not:
            return [self.answer(asked, size, AnswerStatus.FAILED, why_not.encode())]
        if kept.cut is None:
            fragment_size = min(max(FRAGMENT_MIN, size - REPLY_OVERHEAD), _FRAGMENT_MOST)
            kept.cut, kept.attempt = Cut.of(kept.payload, fragment_size), asked.attempt
            self.replies += 1
        cut = kept.cut
        return [
            frame.reply(cut, self.identity, asked.number, asked.sender, index, asked.attempt)
            for index in range(min(cut.parts, REPLIES_UNASKED))
        ]

    def why_no_reply(self, payload: int, size: int) -> str:
        """Return why a reply of `payload` bytes must not be sent; empty where it may."""
        if self.replies_to_anyone or REPLY_OVERHEAD + payload <= size:
            return ""
        return (
            f"the reply of {payload:,} bytes is larger than the question ({max(0, size - REPLY_OVERHEAD):,}): "
            "seal queries, or allow it (--reply-to-anyone)"
        )

    def parts(self, kept: Kept, pull: Pull) -> list[bytes]:
        """Return the fragments of a reply that are pulled."""
        cut = kept.cut
        if cut is None:  # nothing was sent yet
            return []
        return [
            frame.reply(cut, self.identity, pull.number, pull.sender, index, kept.attempt)
            for index in dict.fromkeys(pull.indexes)
            if index < cut.parts
        ]
