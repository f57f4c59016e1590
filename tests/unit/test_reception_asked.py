"""Confirmed messages and queries at the receiver, without a socket: what is told to whom, and for how long."""

from __future__ import annotations

import pytest

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
from fanout.protocol.receiving import dedup as ledger_module
from fanout.protocol.receiving.dedup import RESULTS_MAX, SENDERS_MAX, WINDOW
from fanout.protocol.receiving.reception import Reception
from tests.support.asker import SENDER, fragments
from tests.support.reception import EPOCH, ME, numbered, reply_of, take, taken_ticket, told

# Confirmed messages.


def test_one_who_asks_is_told_when_the_handler_has_returned_and_whenever_he_asks_again() -> None:
    reception = Reception(ME)
    ask = fragments(1, b"x")
    (message,), answers = take(reception, *ask)
    assert (message.payload, answers) == (b"x", [])
    assert message.ticket is not None
    assert told(take(reception, *ask)[1]) == (AnswerStatus.PENDING, b"")
    assert told(reception.confirmed(message.ticket, EPOCH)) == (AnswerStatus.CONFIRMED, b"")
    assert reception.confirmed(message.ticket, EPOCH) == reception.failed(message.ticket, "late", EPOCH) == []
    again = fragments(1, b"x", attempt=7)
    messages, answers = take(reception, *again)
    assert (messages, told(answers)) == ([], (AnswerStatus.CONFIRMED, b""))
    answer = frame.decode(answers[0])
    assert isinstance(answer, Answer)
    assert answer.attempt == 7
    assert (reception.confirmations, reception.failures) == (1, 0)


def test_what_became_of_a_message_is_known_however_fast_the_stream_went_on() -> None:
    reception = Reception(ME)
    ticket = taken_ticket(reception, *fragments(1, b"x"))
    take(reception, numbered(10 * WINDOW))
    assert told(take(reception, *fragments(1, b"x"))[1])[0] is AnswerStatus.PENDING
    reception.confirmed(ticket, EPOCH)
    assert told(take(reception, *fragments(1, b"x"))[1])[0] is AnswerStatus.CONFIRMED


def test_a_failure_says_why_cut_to_the_room_and_to_whole_characters() -> None:
    reception = Reception(ME)
    ticket = taken_ticket(reception, *fragments(1, b"x"))
    room = ASK_MIN - ANSWER_OVERHEAD
    assert room % 2 == 0
    answers = reception.failed(ticket, "x" + "é" * 500, EPOCH)
    assert told(answers) == (AnswerStatus.FAILED, ("x" + "é" * (room // 2 - 1)).encode())
    assert len(answers[0]) <= ASK_MIN
    _, answers = take(reception, *fragments(1, b"x", flags=ASK | QUERY, size=1200))
    assert told(answers)[1] == ("x" + "é" * 149).encode(), "a larger question has room for more"


def test_nobody_is_told_who_did_not_ask() -> None:
    reception = Reception(ME)
    (message,), answers = take(reception, *fragments(1, b"x", flags=0))
    assert answers == []
    assert message.ticket is not None
    assert reception.confirmed(message.ticket, EPOCH) == []
    assert reception.confirmations == 0
    assert take(reception, *fragments(1, b"x", flags=0)) == ([], [])


def test_only_what_somebody_was_told_is_counted() -> None:
    reception = Reception(ME)
    for number, settle in enumerate((reception.confirmed, lambda *both: reception.failed(both[0], "no", EPOCH)), 1):
        ticket = taken_ticket(reception, *fragments(number, b"x", flags=0))
        assert settle(ticket, EPOCH) == []
    assert reception.replied(taken_ticket(reception, *fragments(3, b"x", flags=QUERY)), b"reply", EPOCH) == []
    assert (reception.confirmations, reception.failures, reception.replies) == (0, 0, 0)
    assert len(take(reception, *fragments(3, b"x", flags=ASK | QUERY))[1]) == 1
    assert reception.replies == 1, "it is sent now"
    first, last = fragments(4, bytes(2000))
    take(reception, last)
    reception.confirmed(taken_ticket(reception, first), EPOCH)
    assert reception.confirmations == 1, "its sender asked before it was whole"


def test_where_too_many_wait_a_new_one_is_not_taken_and_not_answered_until_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger_module, "PENDING_MAX", 2)
    reception = Reception(ME)
    waiting = [taken_ticket(reception, *fragments(number, b"x")) for number in (1, 2)]
    assert take(reception, *fragments(3, b"x")) == ([], [])
    assert reception.counts[ReceiveDrop.NO_ROOM] == 1
    assert told(take(reception, *fragments(2, b"x"))[1])[0] is AnswerStatus.PENDING
    assert len(take(reception, numbered(9, sender=7))[0]) == 1, "a stream is no matter of it"
    reception.confirmed(waiting[0], EPOCH)
    assert taken_ticket(reception, *fragments(3, b"x")).is_open


def test_what_the_queue_dropped_is_taken_again_when_it_comes_again() -> None:
    reception = Reception(ME)
    ask = fragments(1, b"x", flags=ASK | NUMBERED)
    for _ in range(3):
        ticket = taken_ticket(reception, *ask)
        reception.release(ticket)
        assert reception.confirmed(ticket, EPOCH) == []
    assert (reception.skipped, reception.reordered, reception.duplicates) == (0, 0, 0)
    assert not reception.has_pending
    take(reception, numbered(WINDOW + 5))
    assert told(take(reception, *ask)[1])[0] is AnswerStatus.REFUSED


def test_results_are_bounded() -> None:
    reception = Reception(ME)
    for number in range(1, 300):
        reception.confirmed(taken_ticket(reception, *fragments(number, b"x")), EPOCH)
    ledger = reception._ledgers[False]
    template = ledger.result((SENDER, 1))
    assert template is not None
    for number in range(1, RESULTS_MAX):
        ledger.settle((1, number), template)
    assert len(ledger._results) == RESULTS_MAX
    assert ledger.result((SENDER, 1)) is None
    assert told(take(reception, *fragments(1, b"x"))[1])[0] is AnswerStatus.REFUSED, "it is not handed over again"


def test_senders_are_bounded_and_totals_are_never_lost() -> None:
    reception = Reception(ME)
    for sender in range(1, SENDERS_MAX + 101):
        take(reception, numbered(1, sender=sender), numbered(3, sender=sender), numbered(3, sender=sender))
    known = reception.senders()
    assert len(known) == SENDERS_MAX
    assert known[-1].sender == f"{SENDERS_MAX + 100:016x}"
    assert (reception.skipped, reception.duplicates) == (SENDERS_MAX + 100, SENDERS_MAX + 100)
    take(reception, numbered(5, sender=1), frame.mark(1, 5, 1))
    assert reception.skipped == SENDERS_MAX + 100, "what came before it was forgotten is not held against a sender"


# Queries.


def test_a_reply_answers_the_query_and_whoever_asks_again() -> None:
    reception = Reception(ME)
    query = fragments(1, b"status", flags=ASK | QUERY)
    ticket = taken_ticket(reception, *query)
    assert ticket.wants_reply
    (reply,) = reply_of(reception.replied(ticket, b"fine", EPOCH))
    assert (reply.sender, reply.asker, reply.number, reply.payload) == (ME, SENDER, 1, b"fine")
    (again,) = reply_of(take(reception, *fragments(1, b"status", flags=ASK | QUERY, attempt=3))[1])
    assert again == reply._replace(attempt=3)
    assert (reception.replies, reception.confirmations) == (1, 0)
    assert reception.replied(ticket, b"again", EPOCH) == []


@pytest.mark.parametrize("size", [300, 1200])
def test_a_reply_is_as_large_as_the_question_at_most(size: int) -> None:
    reception = Reception(ME)
    query = fragments(1, b"status", flags=ASK | QUERY, size=size)
    most = len(query[-1]) - REPLY_OVERHEAD
    (datagram,) = reception.replied(taken_ticket(reception, *query), bytes(most), EPOCH)
    assert len(datagram) == len(query[-1])
    ticket = taken_ticket(reception, *fragments(2, b"status", flags=ASK | QUERY, size=size))
    status, detail = told(reception.replied(ticket, bytes(most + 1), EPOCH))
    assert status is AnswerStatus.FAILED
    assert detail.startswith(f"the reply of {most + 1:,} bytes is larger than the question ({most:,})".encode())
    assert ticket.problem
    assert reception.failures == 1
    answers = take(reception, *fragments(1, b"status", flags=ASK | QUERY, size=256))[1]
    assert told(answers)[0] is AnswerStatus.FAILED, "whoever asks again has less room"


def test_a_large_reply_goes_to_anyone_where_that_is_allowed_and_the_rest_is_pulled() -> None:
    reception = Reception(ME, reply_to_anyone=True)
    query = fragments(1, b"status", flags=ASK | QUERY)
    payload = bytes(range(256)) * 400
    first = reply_of(reception.replied(taken_ticket(reception, *query), payload, EPOCH))
    assert len(first) == REPLIES_UNASKED
    parts = {reply.position: reply.payload for reply in first}
    rest = range(len(parts), first[0].parts)
    while len(parts) < first[0].parts:
        wanted = [index for index in rest if index not in parts][:31]
        for reply in reply_of(take(reception, frame.pull(SENDER, 1, [*wanted, *wanted, 10_000]))[1]):
            parts[reply.position] = reply.payload
        assert set(wanted) <= set(parts)
    assert b"".join(parts[index] for index in sorted(parts)) == payload
    assert take(reception, frame.pull(SENDER, 2, [0])) == ([], [])
    assert take(reception, frame.pull(7, 1, [0])) == ([], [])
    assert reception.counts[ReceiveDrop.UNEXPECTED] == 2


def test_a_pull_by_a_stranger_is_not_answered() -> None:
    reception = Reception(ME)
    reception.replied(taken_ticket(reception, *fragments(1, b"status", flags=ASK | QUERY)), b"x", EPOCH)
    assert take(reception, frame.pull(SENDER, 1, [0])) == ([], [])
    assert reception.counts[ReceiveDrop.UNEXPECTED] == 1


def test_kept_replies_are_bounded_and_one_that_made_room_is_said_to_be_gone() -> None:
    reception = Reception(ME, reply_to_anyone=True)
    for number in range(1, 6):
        ticket = taken_ticket(reception, *fragments(number, b"status", flags=ASK | QUERY))
        reception.replied(ticket, bytes(8 * 1024 * 1024), EPOCH)
    status, detail = told(take(reception, *fragments(1, b"status", flags=ASK | QUERY))[1])
    assert (status, detail) == (AnswerStatus.FAILED, b"its reply had to make room for others")
    assert take(reception, frame.pull(SENDER, 1, [0])) == ([], [])
    assert len(take(reception, *fragments(5, b"status", flags=ASK | QUERY))[1]) == REPLIES_UNASKED
