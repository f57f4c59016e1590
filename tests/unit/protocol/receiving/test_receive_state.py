"""Confirmed messages and queries at the receiver, without a socket: what is told to whom, and for how long."""

from __future__ import annotations

import pytest

from fanout.errors import InvalidInput, MessageTooLarge
from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import (
    ANSWER_OVERHEAD,
    ASK,
    ASK_MIN,
    NUMBERED,
    QUERY,
    REPLIES_UNASKED,
    REPLY_OVERHEAD,
    Answer,
    AnswerStatus,
)
from fanout.protocol.receiving import receive_state
from fanout.protocol.receiving.dedup import RESULTS_MAX, SENDERS_MAX, WINDOW, HandlingResult
from fanout.protocol.receiving.receive_state import PendingReply
from fanout.protocol.receiving.reception import Reception
from tests.support.frame_client import SENDER, fragments
from tests.support.reception import EPOCH, ME, confirmed, failed, numbered, replied, reply_of, take, taken_pending, told

# Confirmed messages.


def test_one_who_asks_is_told_when_the_handler_has_returned_and_whenever_he_asks_again() -> None:
    reception = Reception(ME)
    ask = fragments(1, b"x")
    (message,), answers = take(reception, *ask)
    assert (message.payload, answers) == (b"x", [])
    assert message.pending is not None
    assert told(take(reception, *ask)[1]) == (AnswerStatus.PENDING, b"")
    assert told(confirmed(message.pending)) == (AnswerStatus.CONFIRMED, b"")
    assert confirmed(message.pending) == failed(message.pending, "late") == []
    again = fragments(1, b"x", attempt=7)
    messages, answers = take(reception, *again)
    assert (messages, told(answers)) == ([], (AnswerStatus.CONFIRMED, b""))
    answer = frame.decode(answers[0])
    assert isinstance(answer, Answer)
    assert answer.attempt == 7
    assert (reception.counts.confirmed, reception.counts.failed) == (1, 0)


def test_what_became_of_a_message_is_known_however_fast_the_stream_went_on() -> None:
    reception = Reception(ME)
    pending = taken_pending(reception, *fragments(1, b"x"))
    take(reception, numbered(10 * WINDOW))
    assert told(take(reception, *fragments(1, b"x"))[1])[0] is AnswerStatus.PENDING
    confirmed(pending)
    assert told(take(reception, *fragments(1, b"x"))[1])[0] is AnswerStatus.CONFIRMED


def test_a_failure_says_why_cut_to_the_room_and_to_whole_characters() -> None:
    reception = Reception(ME)
    pending = taken_pending(reception, *fragments(1, b"x"))
    room = ASK_MIN - ANSWER_OVERHEAD
    assert room % 2 == 0
    answers = failed(pending, "x" + "é" * 500)
    assert told(answers) == (AnswerStatus.FAILED, ("x" + "é" * (room // 2 - 1)).encode())
    assert len(answers[0]) <= ASK_MIN
    _, answers = take(reception, *fragments(1, b"x", flags=ASK | QUERY, size=1200))
    assert told(answers)[1] == ("x" + "é" * 149).encode(), "a larger question has room for more"


def test_nobody_is_told_who_did_not_ask() -> None:
    reception = Reception(ME)
    (message,), answers = take(reception, *fragments(1, b"x", flags=0))
    assert answers == []
    assert message.pending is not None
    assert confirmed(message.pending) == []
    assert reception.counts.confirmed == 0
    assert take(reception, *fragments(1, b"x", flags=0)) == ([], [])


def test_only_what_somebody_was_told_is_counted() -> None:
    reception = Reception(ME)
    assert confirmed(taken_pending(reception, *fragments(1, b"x", flags=0))) == []
    assert failed(taken_pending(reception, *fragments(2, b"x", flags=0)), "no") == []
    assert replied(taken_pending(reception, *fragments(3, b"x", flags=QUERY)), b"reply") == []
    assert (reception.counts.confirmed, reception.counts.failed, reception.counts.replied) == (0, 0, 0)
    assert len(take(reception, *fragments(3, b"x", flags=ASK | QUERY))[1]) == 1
    assert reception.counts.replied == 1, "it is sent now"
    first, last = fragments(4, bytes(2000))
    take(reception, last)
    confirmed(taken_pending(reception, first))
    assert reception.counts.confirmed == 1, "its sender asked before it was whole"


def test_where_too_many_wait_a_new_one_is_not_taken_and_not_answered_until_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receive_state, "PENDING_MAX", 2)
    reception = Reception(ME)
    waiting = [taken_pending(reception, *fragments(number, b"x")) for number in (1, 2)]
    assert take(reception, *fragments(3, b"x")) == ([], [])
    assert reception.counts.refused[ReceiveDrop.NO_ROOM] == 1
    assert told(take(reception, *fragments(2, b"x"))[1])[0] is AnswerStatus.PENDING
    assert len(take(reception, numbered(9, sender=7))[0]) == 1, "a stream is no matter of it"
    confirmed(waiting[0])
    assert taken_pending(reception, *fragments(3, b"x")).is_open


def test_what_the_queue_dropped_is_taken_again_when_it_comes_again() -> None:
    reception = Reception(ME)
    ask = fragments(1, b"x", flags=ASK | NUMBERED)
    for _ in range(3):
        pending = taken_pending(reception, *ask)
        pending.state.release(pending)
        assert confirmed(pending) == []
    assert (reception.counts.skipped, reception.counts.reordered, reception.counts.duplicates) == (0, 0, 0)
    assert not reception.has_pending
    take(reception, numbered(WINDOW + 5))
    assert told(take(reception, *ask)[1])[0] is AnswerStatus.REFUSED


def test_results_are_bounded() -> None:
    reception = Reception(ME)
    for number in range(1, 300):
        confirmed(taken_pending(reception, *fragments(number, b"x")))
    table = reception.plain.table
    template = table.results.get((SENDER, 1))
    assert template is not None
    for number in range(1, RESULTS_MAX):
        table.settle((1, number), template)
    assert len(table.results) == RESULTS_MAX
    assert table.results.get((SENDER, 1)) is None
    assert told(take(reception, *fragments(1, b"x"))[1])[0] is AnswerStatus.REFUSED, "it is not handed over again"


def test_senders_are_bounded_and_totals_are_never_lost() -> None:
    reception = Reception(ME)
    for sender in range(1, SENDERS_MAX + 101):
        take(reception, numbered(1, sender=sender), numbered(3, sender=sender), numbered(3, sender=sender))
    known = reception.senders()
    assert len(known) == SENDERS_MAX
    assert known[-1].sender == f"{SENDERS_MAX + 100:016x}"
    assert (reception.counts.skipped, reception.counts.duplicates) == (SENDERS_MAX + 100, SENDERS_MAX + 100)
    take(reception, numbered(5, sender=1), frame.mark(1, 5, 1))
    assert reception.counts.skipped == SENDERS_MAX + 100, (
        "what came before it was forgotten is not held against a sender"
    )


class Shell:
    """Settles messages, and remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def settle(self, pending: PendingReply, result: HandlingResult) -> bool:
        was_open = pending.is_open
        self.sent += pending.state.settle(pending, result, EPOCH)
        return was_open

    def release(self, pending: PendingReply) -> None:
        pending.state.release(pending)


def asked_by(shell: Shell, reception: Reception, number: int, flags: int = ASK) -> PendingReply:
    pending = taken_pending(reception, *fragments(number, b"x", flags=flags))
    pending.settler = shell
    return pending


def test_a_pending_message_is_settled_once_whatever_is_said_of_it_later() -> None:
    reception = Reception(ME)
    for number, settle in enumerate((PendingReply.confirm, lambda each: each.fail("no"), PendingReply.release), 1):
        shell = Shell()
        pending = asked_by(shell, reception, number)
        with pytest.raises(InvalidInput, match="cannot reply: the message is not a query"):
            pending.reply(b"")
        settle(pending)
        sent = list(shell.sent)
        pending.confirm()
        pending.fail("late")
        pending.release()
        assert shell.sent == sent
        assert len(sent) == (number < 3)
        assert (pending.is_open, pending.wants_reply, pending.problem) == (False, False, "")
    assert (reception.counts.confirmed, reception.counts.failed, reception.has_pending) == (1, 1, False)


def test_a_pending_query_has_one_reply_or_fails() -> None:
    reception, shell = Reception(ME), Shell()
    query = asked_by(shell, reception, 1, ASK | QUERY)
    with pytest.raises(InvalidInput, match="reply must be bytes: encode it first; got str"):
        query.reply("text")  # type: ignore[arg-type]
    with pytest.raises(MessageTooLarge):
        query.reply(bytes(frame.MESSAGE_MAX + 1))
    assert query.wants_reply
    query.reply(memoryview(b"fine"))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="answered before"):
        query.reply(b"again")
    assert [reply.payload for reply in reply_of(shell.sent)] == [b"fine"]
    shell.sent.clear()
    asked_by(shell, reception, 2, ASK | QUERY).confirm()
    assert told(shell.sent) == (AnswerStatus.FAILED, b"the handler did not reply")


# Queries.


def test_a_reply_answers_the_query_and_whoever_asks_again() -> None:
    reception = Reception(ME)
    query = fragments(1, b"status", flags=ASK | QUERY)
    pending = taken_pending(reception, *query)
    assert pending.wants_reply
    (reply,) = reply_of(replied(pending, b"fine"))
    assert (reply.sender, reply.asker, reply.number, reply.payload) == (ME, SENDER, 1, b"fine")
    (again,) = reply_of(take(reception, *fragments(1, b"status", flags=ASK | QUERY, attempt=3))[1])
    assert again == reply._replace(attempt=3)
    assert (reception.counts.replied, reception.counts.confirmed) == (1, 0)
    assert replied(pending, b"again") == []


@pytest.mark.parametrize("size", [300, 1200])
def test_a_reply_is_as_large_as_the_question_at_most(size: int) -> None:
    reception = Reception(ME)
    query = fragments(1, b"status", flags=ASK | QUERY, size=size)
    most = len(query[-1]) - REPLY_OVERHEAD
    (datagram,) = replied(taken_pending(reception, *query), bytes(most))
    assert len(datagram) == len(query[-1])
    pending = taken_pending(reception, *fragments(2, b"status", flags=ASK | QUERY, size=size))
    status, detail = told(replied(pending, bytes(most + 1)))
    assert status is AnswerStatus.FAILED
    assert detail.startswith(f"the reply of {most + 1:,} bytes is larger than the question ({most:,})".encode())
    assert pending.problem
    assert reception.counts.failed == 1
    answers = take(reception, *fragments(1, b"status", flags=ASK | QUERY, size=256))[1]
    assert told(answers)[0] is AnswerStatus.FAILED, "whoever asks again has less room"


def test_a_large_reply_goes_to_anyone_where_that_is_allowed_and_the_rest_is_pulled() -> None:
    reception = Reception(ME, reply_to_anyone=True)
    query = fragments(1, b"status", flags=ASK | QUERY)
    payload = bytes(range(256)) * 400
    first = reply_of(replied(taken_pending(reception, *query), payload))
    assert len(first) == REPLIES_UNASKED
    parts = {reply.position: reply.payload for reply in first}
    count = frame.fragment_count(first[0].total, first[0].size)
    rest = range(len(parts), count)
    while len(parts) < count:
        wanted = [index for index in rest if index not in parts][:31]
        for reply in reply_of(take(reception, frame.pull(SENDER, 1, [*wanted, *wanted, 10_000]))[1]):
            parts[reply.position] = reply.payload
        assert set(wanted) <= set(parts)
    assert b"".join(parts[index] for index in sorted(parts)) == payload
    assert take(reception, frame.pull(SENDER, 2, [0])) == ([], [])
    assert take(reception, frame.pull(7, 1, [0])) == ([], [])
    assert reception.counts.refused[ReceiveDrop.UNEXPECTED] == 2


def test_a_pull_by_a_stranger_is_not_answered() -> None:
    reception = Reception(ME)
    replied(taken_pending(reception, *fragments(1, b"status", flags=ASK | QUERY)), b"x")
    assert take(reception, frame.pull(SENDER, 1, [0])) == ([], [])
    assert reception.counts.refused[ReceiveDrop.UNEXPECTED] == 1


def test_kept_replies_are_bounded_and_one_that_made_room_is_said_to_be_gone() -> None:
    reception = Reception(ME, reply_to_anyone=True)
    for number in range(1, 6):
        pending = taken_pending(reception, *fragments(number, b"status", flags=ASK | QUERY))
        replied(pending, bytes(8 * 1024 * 1024))
    status, detail = told(take(reception, *fragments(1, b"status", flags=ASK | QUERY))[1])
    assert (status, detail) == (AnswerStatus.FAILED, b"its reply was dropped to keep newer ones")
    assert take(reception, frame.pull(SENDER, 1, [0])) == ([], [])
    assert len(take(reception, *fragments(5, b"status", flags=ASK | QUERY))[1]) == REPLIES_UNASKED
