"""What a receiver's side of frames is given in tests, and what it hands over; no socket."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from fanout.protocol import frame
from fanout.protocol.frame import ASK, MESSAGE_MAX, QUERY, Answer, AnswerStatus, Cut, ReplyFragment
from fanout.protocol.receiving.dedup import CONFIRMED, HandlingResult
from fanout.protocol.receiving.receive_state import PendingReply, Taken
from fanout.protocol.receiving.reception import Reception
from fanout.protocol.receiving.run import Run
from tests.support.frame_client import SENDER, fragments
from tests.support.sealed_frames import beginning

EPOCH = 1_700_000_000.0
ME = 99


class Handed(NamedTuple):
    """A message as it is handed over."""

    payload: bytes
    gap: int
    pending: PendingReply | None


def numbered(number: int, payload: bytes = b"", sender: int = SENDER) -> bytes:
    return frame.numbered_prefix(sender) + number.to_bytes(8, "big") + payload


def take_run(reception: Reception, datagrams: list[bytes], now: float = 0.0) -> Taken:
    """Take datagrams as the kernel merges them: of equal size, but for a shorter last one."""
    run = Run(b"".join(datagrams), len(datagrams[0]), len(datagrams), ("10.0.0.7", 1), EPOCH + now)
    return reception.take(run, now)


def take(reception: Reception, *datagrams: bytes, now: float = 0.0) -> tuple[list[Handed], list[bytes]]:
    """Take datagrams one by one; return what is handed over at once, and what is answered."""
    handed_over: list[Handed] = []
    answers: list[bytes] = []
    for datagram in datagrams:
        taken = take_run(reception, [datagram], now)
        handed_over += handed(taken.runs)
        answers += taken.answers
    return handed_over, answers


def handed(runs: list[Run]) -> list[Handed]:
    messages = []
    for data, segment, count, _, _, header, track, question, _, payloads in runs:
        assert question is None or isinstance(question, PendingReply)
        gaps: dict[int, int] = {} if track is None else dict(track.handed(0, count))
        for index in range(count):
            payload = payloads[index] if payloads else data[index * segment : (index + 1) * segment][header:]
            messages.append(Handed(payload, gaps.get(index, 0), question))
    return messages


def taken_pending(reception: Reception, *datagrams: bytes) -> PendingReply:
    (message,), _ = take(reception, *datagrams)
    assert message.pending is not None
    return message.pending


def confirmed(pending: PendingReply) -> list[bytes]:
    """Say that the handler has returned; return what is sent."""
    return pending.state.settle(pending, CONFIRMED, EPOCH)


def failed(pending: PendingReply, reason: str) -> list[bytes]:
    """Say that the handler failed; return what is sent."""
    return pending.state.settle(pending, HandlingResult.failed(reason), EPOCH)


def replied(pending: PendingReply, payload: bytes) -> list[bytes]:
    """Reply to a query; return what is sent."""
    return pending.state.settle(pending, HandlingResult.replied(payload), EPOCH)


def told(answers: list[bytes]) -> tuple[AnswerStatus, bytes]:
    """Return what the one answer says."""
    (datagram,) = answers
    answer = frame.decode(datagram)
    assert isinstance(answer, Answer)
    assert (answer.sender, answer.asker) == (ME, SENDER)
    return answer.status, answer.detail


def reply_of(answers: list[bytes]) -> list[ReplyFragment]:
    frames = [frame.decode(answer) for answer in answers]
    assert all(isinstance(one, ReplyFragment) for one in frames)
    return frames  # type: ignore[return-value]


def claim(sender: int, number: int = 1, position: int = 0, size: int = 1200, total: int = MESSAGE_MAX) -> bytes:
    """A fragment of a message that claims to be large."""
    payload = bytes(min(size, total - position * size))
    return (
        frame.header(frame.FrameKind.FRAGMENT, sender, number)
        + frame.FRAGMENT.pack(0, 0, size, position, total)
        + payload
    )


def good_frames() -> list[bytes]:
    cut = Cut.of(bytes(600), 300)
    return [
        numbered(1, b"payload"),
        frame.mark(SENDER, 9, 2),
        frame.fragment(cut, SENDER, 3, 1, flags=ASK),
        *fragments(4, b"x", flags=ASK | QUERY, size=300),
        frame.answer(SENDER, 3, 99, 1, AnswerStatus.FAILED, detail=b"why"),
        frame.reply(cut, SENDER, 3, 99, 0, 1),
        frame.pull(SENDER, 3, [0, 1]),
        beginning(SENDER) + bytes(60),
    ]


def mutated() -> st.SearchStrategy[bytes]:
    def mutate(datagram: bytes, flips: list[tuple[int, int]], cut: int) -> bytes:
        changed = bytearray(datagram)
        for at, value in flips:
            changed[at % len(changed)] = value
        return bytes(changed[:cut])

    flips = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4)
    return st.builds(mutate, st.sampled_from(good_frames()), flips, st.integers(1, 400))
