"""Answers: no larger than the question, and of a reply what was asked for."""

from __future__ import annotations

import pytest

from fanout.protocol import frame
from fanout.protocol.frame import ANSWER_OVERHEAD, FRAGMENT_MIN, REPLIES_UNASKED, REPLY_OVERHEAD, AnswerStatus, Pull
from fanout.protocol.receiving.dedup import CONFIRMED, HandlingResult, Kept
from fanout.protocol.receiving.replies import AnswerBuilder
from tests.support.reception import reply_of

ME, SENDER, NUMBER = 99, 7, 11


ASKED = frame.Fragment(SENDER, NUMBER, frame.ASK, 3, 1, 0, 1, b"x")


def answered(datagram: bytes) -> frame.Answer:
    found = frame.decode(datagram)
    assert isinstance(found, frame.Answer)
    return found


def test_an_answer_repeats_what_it_answers() -> None:
    (datagram,) = AnswerBuilder(ME, False).result(CONFIRMED, ASKED, 200)
    assert answered(datagram) == (ME, NUMBER, SENDER, 3, AnswerStatus.CONFIRMED, 0, b"")


@pytest.mark.parametrize(("space", "detail"), [(0, ""), (1, ""), (2, "é"), (3, "é"), (5, "éé"), (99, "ééé")])
def test_a_reason_is_cut_to_the_question_and_to_whole_characters(space: int, detail: str) -> None:
    datagram = AnswerBuilder(ME, False).answer(ASKED, ANSWER_OVERHEAD + space, AnswerStatus.FAILED, "ééé".encode())
    assert answered(datagram).detail.decode() == detail
    assert len(datagram) <= ANSWER_OVERHEAD + space


def test_a_bitmap_is_cut_anywhere() -> None:
    datagram = AnswerBuilder(ME, False).answer(
        ASKED, ANSWER_OVERHEAD + 2, AnswerStatus.PARTIAL, b"\xff\xff\xff", first_missing=5
    )
    assert (answered(datagram).detail, answered(datagram).first_missing) == (b"\xff\xff", 5)


def test_a_reply_that_is_larger_than_the_question_is_refused_with_what_to_do() -> None:
    builder, result = AnswerBuilder(ME, False), HandlingResult.replied(b"x" * 1000)
    (datagram,) = builder.result(result, ASKED, REPLY_OVERHEAD + 999)
    assert answered(datagram).status is AnswerStatus.FAILED
    assert b"the reply of 1,000 bytes is larger than the question (999): seal" in answered(datagram).detail
    assert builder.why_no_reply(1, 0) == builder.why_no_reply(1, REPLY_OVERHEAD), "of a tiny question nothing is left"
    (part,) = reply_of(builder.result(result, ASKED, REPLY_OVERHEAD + 1000))
    assert part.payload == b"x" * 1000
    assert builder.replies == 1


def test_a_reply_is_cut_for_the_first_who_asks_and_counted_once() -> None:
    builder, result = AnswerBuilder(ME, True), HandlingResult.replied(bytes(FRAGMENT_MIN * 40))
    first = reply_of(builder.result(result, ASKED, 0))
    again = reply_of(builder.result(result, ASKED._replace(attempt=4), 60_000))
    assert len(first) == len(again) == REPLIES_UNASKED
    assert {part.size for part in [*first, *again]} == {FRAGMENT_MIN}
    assert ({part.attempt for part in first}, {part.attempt for part in again}) == ({3}, {4})
    assert builder.replies == 1


def test_what_is_pulled_is_sent_once_and_nothing_that_there_is_not() -> None:
    builder, result = AnswerBuilder(ME, True), HandlingResult.replied(bytes(FRAGMENT_MIN * 40))
    kept = result.reply
    assert kept is not None
    pull = Pull(SENDER, NUMBER, (38, 2, 38, 40, 2**32 - 1))
    assert builder.parts(kept, pull) == [], "none of it was sent yet"
    builder.result(result, ASKED, 0)
    parts = reply_of(builder.parts(kept, pull))
    assert [(part.position, part.attempt) for part in parts] == [(38, 3), (2, 3)]
    assert isinstance(kept, Kept)
