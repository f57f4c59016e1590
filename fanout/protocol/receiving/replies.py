"""What a receiver answers: no more than was asked for, nor larger than the question where that is not safe. Pure."""

from __future__ import annotations

from fanout.protocol import frame
from fanout.protocol.frame import (
    ANSWER_OVERHEAD,
    FRAGMENT_MIN,
    REPLIES_UNASKED,
    REPLY_OVERHEAD,
    AnswerStatus,
    Cut,
    Fragment,
    Pull,
)
from fanout.protocol.receiving.dedup import HandlingResult, Kept
from fanout.protocol.receiving.run import Ticket

_FRAGMENT_MOST = 0xFFFF


class Answering:
    """Makes the answers of one receiver. `room` is the bytes of the question, without its seal."""

    def __init__(self, identity: int, reply_to_anyone: bool) -> None:
        self.identity = identity
        self.reply_to_anyone = reply_to_anyone
        self.replies = 0
        """Those that were sent, once or more often."""

    def answer(
        self, asked: Fragment | Ticket, room: int, status: AnswerStatus, detail: bytes = b"", first_missing: int = 0
    ) -> bytes:
        """Return an answer to a question, its detail cut to the room."""
        detail = detail[: room - ANSWER_OVERHEAD]
        if status is not AnswerStatus.PARTIAL:
            detail = detail.decode("utf-8", "ignore").encode()  # no half character at the end
        return frame.answer(
            self.identity, asked.number, asked.sender, asked.attempt, status, first_missing=first_missing, detail=detail
        )

    def tell(self, result: HandlingResult, asked: Fragment | Ticket, is_sealed: bool, room: int) -> list[bytes]:
        """Return the answer to a question about a message that was settled."""
        kept = result.reply
        if kept is None:
            return [self.answer(asked, room, result.status, result.detail)]
        why_not = self.why_no_reply(len(kept.payload), is_sealed, room)
        if why_not:
            return [self.answer(asked, room, AnswerStatus.FAILED, why_not.encode())]
        if kept.cut is None:
            size = min(max(FRAGMENT_MIN, room - REPLY_OVERHEAD), _FRAGMENT_MOST)
            kept.cut, kept.attempt = Cut.of(kept.payload, size), asked.attempt
            self.replies += 1
        cut = kept.cut
        return [
            frame.reply(cut, self.identity, asked.number, asked.sender, index, asked.attempt)
            for index in range(min(cut.parts, REPLIES_UNASKED))
        ]

    def why_no_reply(self, size: int, is_sealed: bool, room: int) -> str:
        """Say why a reply of so many bytes must not be sent; nothing where it may."""
        if is_sealed or self.reply_to_anyone or REPLY_OVERHEAD + size <= room:
            return ""
        return (
            f"the reply of {size:,} bytes is larger than the question ({max(0, room - REPLY_OVERHEAD):,}): "
            "seal queries, or allow it (--reply-to-anyone)"
        )

    def parts(self, kept: Kept, pull: Pull) -> list[bytes]:
        """Return the fragments of a reply that are pulled."""
        cut = kept.cut
        if cut is None:  # nobody was told of it yet
            return []
        return [
            frame.reply(cut, self.identity, pull.number, pull.sender, index, kept.attempt)
            for index in dict.fromkeys(pull.indexes)
            if index < cut.parts
        ]
