"""`Exchange`: what is sent when, and what becomes of it, on a scripted clock."""

from __future__ import annotations

import errno
from itertools import pairwise
from typing import Any

import pytest

from fanout.model import Endpoint
from fanout.protocol import frame
from fanout.protocol.frame import ASK, Answer, AnswerStatus, Cut, Fragment, Pull, ReplyFragment
from fanout.protocol.sending import exchange as exchange_module
from fanout.protocol.sending.exchange import Dispatch, Exchange
from fanout.protocol.sending.receipt import Confirmation, Receipt, ReceiptStatus
from fanout.protocol.sending.rtt import FIRST, MOST, RttEstimator

A, B, C = (Endpoint(f"10.0.0.{number}", 12000) for number in (1, 2, 3))
ME, POD, STRANGER = 1, 2, 3
NUMBER = 7


def begin(payload: bytes = b"reload", endpoints: tuple[Endpoint, ...] = (A, B), **settings: Any) -> Exchange:
    settings = {
        "timeout": 2.0,
        "retries": None,
        "round_trip": RttEstimator(lambda: 0.0),
        "fragment_size": 1200,
    } | settings
    return Exchange(payload, endpoints, 0.0, sender=ME, number=NUMBER, **settings)


def asked(dispatches: list[Dispatch]) -> dict[Endpoint, list[Fragment]]:
    found: dict[Endpoint, list[Fragment]] = {}
    for dispatch in dispatches:
        for endpoint in dispatch.endpoints:
            for datagram in dispatch.frames:
                one = frame.decode(datagram)
                assert isinstance(one, Fragment)
                found.setdefault(endpoint, []).append(one)
    return found


def answer(
    status: AnswerStatus = AnswerStatus.CONFIRMED, attempt: int = 0, missing: int = 0, detail: bytes = b""
) -> Answer:
    return Answer(POD, NUMBER, ME, attempt, status, missing, detail)


def statuses(exchange: Exchange) -> dict[Endpoint, ReceiptStatus]:
    return {receipt.endpoint: receipt.status for receipt in exchange.receipts()}


def test_it_is_over_with_the_last_answer() -> None:
    exchange = begin()
    (dispatch,) = exchange.due(0.0)
    assert dispatch.endpoints == (A, B)
    assert [one.payload for one in asked([dispatch])[A]] == [b"reload"]
    assert exchange.due(0.05) == []
    assert exchange.take(answer(), A, 0.01)
    assert not exchange.is_over(0.01)
    assert exchange.take(answer(), B, 0.02)
    assert exchange.is_over(0.02)
    (first, second) = exchange.receipts()
    assert (first.status, first.rtt, first.tries) == (ReceiptStatus.CONFIRMED, 0.01, 1)
    assert second.rtt == 0.02
    assert not exchange.take(answer(), A, 0.03)  # one more copy of the answer


def test_only_the_silent_are_asked_again_and_named() -> None:
    exchange = begin(timeout=1.0)
    exchange.due(0.0)
    exchange.take(answer(), A, 0.001)
    now, tries = 0.0, []
    while not exchange.is_over(now):
        if dispatches := exchange.due(now):
            assert set(asked(dispatches)) == {B}
            tries.append(now)
        now = exchange.next_wakeup
    assert now == 1.0
    gaps = [later - sooner for sooner, later in pairwise(tries)]
    assert gaps == sorted(gaps)
    assert statuses(exchange) == {A: ReceiptStatus.CONFIRMED, B: ReceiptStatus.SILENT}
    assert exchange.receipts()[1].tries == len(tries) + 1


def test_an_answer_to_a_later_try_tells_the_round_trip_of_that_try() -> None:
    exchange = begin(endpoints=(A,))
    exchange.due(0.0)
    assert [one.attempt for one in asked(exchange.due(FIRST))[A]] == [1]
    exchange.take(answer(attempt=1), A, FIRST + 0.004)
    (receipt,) = exchange.receipts()
    assert receipt.rtt == pytest.approx(0.004)
    assert receipt.tries == 2


def test_retries_bound_the_tries_and_not_the_time_for_an_answer() -> None:
    exchange = begin(endpoints=(A, B), retries=2, timeout=60.0)
    now, tries = 0.0, 0
    while not exchange.is_over(now):
        tries += len(exchange.due(now))
        now = max(now, exchange.next_wakeup)
        if tries == 3 and now == 60.0:
            exchange.take(answer(attempt=2), A, 59.0)
    assert tries == 3
    assert statuses(exchange) == {A: ReceiptStatus.CONFIRMED, B: ReceiptStatus.SILENT}


def test_where_all_have_left_nothing_is_complete() -> None:
    exchange = begin()
    exchange.due(0.0)
    exchange.follow((), 0.1)
    assert exchange.is_over(0.1)
    confirmation = Confirmation(exchange.receipts(), 6, 0.1, 0.0, False)
    assert len(confirmation.left) == 2
    assert not confirmation.complete


@pytest.mark.parametrize("status", [AnswerStatus.FAILED, AnswerStatus.REFUSED])
def test_a_failure_is_told_on_one_harmless_line(status: AnswerStatus) -> None:
    exchange = begin(endpoints=(A,))
    exchange.due(0.0)
    exchange.take(answer(status, detail=b"ValueError: no\r\n\x1b[31m \xff" + b"x" * 999), A, 0.1)
    assert exchange.is_over(0.1)
    (receipt,) = exchange.receipts()
    assert receipt.status is ReceiptStatus.FAILED
    assert receipt.reason.startswith("ValueError: no ?[31m ")
    assert len(receipt.reason) <= 300


def test_a_busy_handler_is_waited_for_without_counting_tries() -> None:
    exchange = begin(endpoints=(A,), retries=0, timeout=5.0)
    exchange.due(0.0)
    exchange.take(answer(AnswerStatus.PENDING), A, 0.01)
    assert exchange.due(0.01 + MOST - 0.001) == []
    assert len(asked(exchange.due(0.01 + MOST))[A]) == 1
    assert "handler has not returned" in exchange.receipts()[0].reason
    exchange.take(answer(attempt=0), A, 1.0)
    assert exchange.is_over(1.0)
    assert exchange.receipts()[0].tries == 1


def test_refused_by_icmp_for_a_second_is_refused() -> None:
    exchange = begin()
    exchange.due(0.0)
    exchange.take(answer(), B, 0.001)
    now = 0.0
    while not exchange.is_over(now):
        exchange.due(now)
        for _ in range(5):  # whoever else sends to it is refused, too
            exchange.refused(A, errno.ECONNREFUSED, now)
        exchange.refused(C, errno.ECONNREFUSED, now)  # concerns somebody else
        now = max(now, exchange.next_wakeup)
    assert 1.0 <= now < 2.0
    assert exchange.receipts()[0].status is ReceiptStatus.REFUSED
    assert exchange.receipts()[0].reason == "Connection refused"
    assert exchange.receipts()[0].tries > 3


def test_a_pod_that_has_the_message_is_not_given_up_when_it_stops() -> None:
    exchange = begin(endpoints=(A,), timeout=5.0)
    exchange.due(0.0)
    exchange.take(answer(AnswerStatus.PENDING), A, 0.001)
    now = 0.001
    while now < 4.0:
        exchange.due(now)
        exchange.refused(A, errno.ECONNREFUSED, now)
        assert not exchange.is_over(now)
        now = exchange.next_wakeup
    exchange.take(answer(attempt=0), A, 4.0)
    assert statuses(exchange) == {A: ReceiptStatus.CONFIRMED}


def test_refused_once_and_then_silent_is_refused() -> None:
    exchange = begin(endpoints=(A,), timeout=0.2)
    exchange.due(0.0)
    exchange.refused(A, errno.EHOSTUNREACH, 0.01)
    assert exchange.is_over(0.2)
    assert exchange.receipts()[0].status is ReceiptStatus.REFUSED


def test_what_the_kernel_never_took_is_dropped() -> None:
    exchange = begin(endpoints=(A,), timeout=0.05)
    exchange.due(0.0)
    exchange.dropped(A, errno.EPERM, 0.0)
    assert exchange.is_over(0.05)
    (receipt,) = exchange.receipts()
    assert (receipt.status, receipt.reason) == (ReceiptStatus.DROPPED, "Operation not permitted")


def test_pods_that_join_are_asked_and_those_that_leave_are_told_apart() -> None:
    exchange = begin()
    exchange.due(0.0)
    exchange.take(answer(), A, 0.001)
    exchange.follow((A, C), 0.01)
    assert set(asked(exchange.due(0.01))) == {C}
    assert not exchange.is_over(0.02)
    exchange.take(answer(), C, 0.03)
    assert exchange.is_over(0.03)
    confirmation = Confirmation(exchange.receipts(), 6, 0.03, 0.0, False)
    assert [receipt.endpoint for receipt in confirmation.joined] == [C]
    assert [receipt.endpoint for receipt in confirmation.left] == [B]
    assert confirmation.complete
    assert repr(confirmation) == "<Confirmation of 6 bytes: 2 confirmed, 1 left; 0.030 s>"


def test_a_pod_that_comes_back_is_asked_again() -> None:
    exchange = begin()
    exchange.due(0.0)
    exchange.take(answer(), A, 0.001)
    exchange.follow((A, C), 0.01)
    assert set(asked(exchange.due(0.01))) == {C}
    exchange.follow((A, B, C), 0.02)
    assert set(asked(exchange.due(0.02))) == {B}
    exchange.take(answer(), B, 0.03)
    exchange.take(answer(), C, 0.03)
    assert exchange.is_over(0.03)
    assert not any(receipt.status is ReceiptStatus.LEFT for receipt in exchange.receipts())


def test_a_pod_that_has_left_may_answer_and_is_not_asked() -> None:
    exchange = begin(timeout=60.0)
    exchange.due(0.0)
    exchange.follow((B,), 0.01)
    exchange.take(answer(AnswerStatus.PENDING), A, 0.02)
    assert set(asked(exchange.due(30.0))) == {B}
    exchange.follow((A, B), 30.0)
    assert set(asked(exchange.due(30.0))) == {A}
    exchange.take(answer(attempt=1), A, 30.1)
    assert statuses(exchange)[A] is ReceiptStatus.CONFIRMED


def test_liars_change_nothing() -> None:
    exchange = begin(endpoints=(A,))
    exchange.due(0.0)
    assert not exchange.take(answer(), C, 0.01)  # was not asked
    exchange.take(answer(attempt=9), A, 0.01)  # there was no such try
    exchange.take(ReplyFragment(POD, NUMBER, ME, 9, 10, 0, 10, bytes(10)), A, 0.01)
    assert not exchange.is_over(0.01)
    assert exchange.receipts()[0].rtt is None
    exchange.take(answer(AnswerStatus.PARTIAL, missing=2**32 - 1, detail=b"\xff" * 100), A, 0.01)
    exchange.take(answer(AnswerStatus.PARTIAL, missing=0, detail=b""), A, 0.01)
    assert not exchange.is_over(0.02)
    assert len(asked(exchange.due(1.0))[A]) == 1


def test_a_large_message_goes_in_bursts_that_grow_and_only_what_is_missing_goes_again() -> None:
    payload = bytes(300 * 50)
    exchange = begin(payload, (A,), fragment_size=300)
    first = asked(exchange.due(0.0))[A]
    assert [one.position for one in first] == list(range(16))
    assert [bool(one.flags & ASK) for one in first] == [False] * 15 + [True]
    exchange.take(answer(AnswerStatus.PARTIAL, 0, 16), A, 0.001)
    second = asked(exchange.due(0.001))[A]
    assert [one.position for one in second] == list(range(16, 48))
    there = [position != 20 for position in range(20, 48)]
    exchange.take(answer(AnswerStatus.PARTIAL, 1, 20, frame.bitmap(there)), A, 0.002)
    third = asked(exchange.due(0.002))[A]
    assert [one.position for one in third] == [20, 48, 49]
    assert "47 of 50" in exchange.receipts()[0].reason
    exchange.take(answer(attempt=2), A, 0.003)
    assert exchange.receipts()[0].tries == 1


def test_a_pod_that_has_given_up_fragments_gets_them_again() -> None:
    exchange = begin(bytes(300 * 5), (A,), fragment_size=300)
    assert len(asked(exchange.due(0.0))[A]) == 5
    exchange.take(answer(AnswerStatus.PARTIAL, 0, 4, frame.bitmap([False])), A, 0.001)
    assert [one.position for one in asked(exchange.due(0.001))[A]] == [4]
    exchange.take(answer(AnswerStatus.PARTIAL, 1, 0, frame.bitmap([False] * 4 + [True])), A, 0.002)
    assert [one.position for one in asked(exchange.due(0.002))[A]] == [0, 1, 2, 3]
    exchange.take(answer(attempt=2), A, 0.003)
    assert exchange.is_over(0.003)


def test_an_older_answer_does_not_undo_what_a_newer_one_said() -> None:
    exchange = begin(bytes(300 * 20), (A,), fragment_size=300)
    exchange.due(0.0)
    exchange.take(answer(AnswerStatus.PARTIAL, 0, 16), A, 0.001)
    exchange.due(0.001)
    exchange.take(answer(AnswerStatus.PARTIAL, 0, 3), A, 0.002)
    assert "16 of 20" in exchange.receipts()[0].reason


def test_a_lying_answer_drives_nothing() -> None:
    exchange = begin(b"ab", (A,))
    exchange.due(0.0)
    exchange.take(answer(AnswerStatus.PARTIAL, 0, 0, bytes(65_000)), A, 0.001)
    assert exchange.due(0.002) == []


def test_a_query_that_is_confirmed_without_a_reply_has_failed() -> None:
    exchange = begin(b"info", (A,), is_query=True)
    exchange.due(0.0)
    exchange.take(answer(), A, 0.01)
    assert exchange.receipts()[0].status is ReceiptStatus.FAILED
    assert exchange.receipts()[0].reason == "it sent no reply"


def test_a_lost_burst_is_asked_about_with_one_fragment() -> None:
    exchange = begin(bytes(300 * 50), (A,), fragment_size=300)
    exchange.due(0.0)
    again = asked(exchange.due(FIRST))[A]
    assert [(one.position, bool(one.flags & ASK)) for one in again] == [(0, True)]
    exchange.take(answer(AnswerStatus.PARTIAL, 1, 1), A, FIRST + 0.001)
    assert [one.position for one in asked(exchange.due(FIRST + 0.001))[A]] == list(
        range(1, 5)
    )  # half of half the window


def test_a_query_ends_with_the_last_reply() -> None:
    exchange = begin(b"info", is_query=True)
    (dispatch,) = exchange.due(0.0)
    assert [len(one) for one in dispatch.frames] == [1236]
    exchange.take(ReplyFragment(POD, NUMBER, ME, 0, 4, 0, 4, b"pong"), A, 0.01)
    (reply,) = exchange.advance((A, B), 0.01).replies
    assert (reply.endpoint, reply.payload, reply.rtt) == (A, b"pong", 0.01)
    exchange.take(ReplyFragment(POD, NUMBER, ME, 0, 1, 0, 0, b""), B, 0.02)
    assert exchange.is_over(0.02)
    assert [reply.payload for reply in exchange.advance((A, B), 0.02).replies] == [b""]


def _reply(payload: bytes, position: int) -> ReplyFragment:
    cut = Cut.of(payload, 256)
    found = frame.decode(frame.reply(cut, POD, NUMBER, ME, position, 0))
    assert isinstance(found, ReplyFragment)
    return found


def _pulled(dispatches: list[Dispatch]) -> tuple[int, ...]:
    (dispatch,) = dispatches
    (datagram,) = dispatch.frames
    pull = frame.decode(datagram)
    assert isinstance(pull, Pull)
    return pull.indexes


def test_a_large_reply_is_pulled() -> None:
    payload = bytes(number % 251 for number in range(256 * 100))
    exchange = begin(b"dump", (A,), is_query=True)
    exchange.due(0.0)
    for position in range(32):
        exchange.take(_reply(payload, position), A, 0.01)
    assert _pulled(exchange.due(0.01)) == tuple(range(32, 96))
    for position in range(32, 96):
        if position != 40:
            exchange.take(_reply(payload, position), A, 0.02)
    assert exchange.due(0.02) == []
    later = exchange.next_wakeup
    assert _pulled(exchange.due(later)) == (40, 96, 97, 98, 99)
    for position in (99, 98, 40, 40, 97, 96):
        exchange.take(_reply(payload, position), A, later)
    assert [reply.payload for reply in exchange.advance((A,), later).replies] == [payload]
    assert exchange.is_over(later)


def test_the_replies_of_all_pods_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "REPLIES_MAX", 1000)
    exchange = begin(b"dump", is_query=True)
    exchange.due(0.0)
    for endpoint in (A, B):
        for position in range(2):
            exchange.take(_reply(bytes(2560), position), endpoint, 0.01)
    failed = Confirmation(exchange.receipts(), 4, 0.0, 0.0, False).failed
    assert [(receipt.endpoint, "1,000 bytes" in receipt.reason) for receipt in failed] == [(B, True)]


def test_where_all_tries_are_used_no_more_of_a_reply_is_pulled() -> None:
    exchange = begin(b"dump", (A,), is_query=True, retries=1)
    exchange.due(0.0)
    exchange.take(_reply(bytes(256 * 50), 0), A, 0.01)
    for _ in range(2):
        assert len(_pulled(exchange.due(exchange.next_wakeup))) == 49
    assert exchange.due(exchange.next_wakeup) == []
    assert exchange.next_wakeup == exchange.deadline
    assert exchange.is_over(exchange.deadline)
    (receipt,) = exchange.receipts()
    assert (receipt.status, receipt.tries, receipt.reason) == (
        ReceiptStatus.SILENT, 2, "its reply has not arrived completely",
    )  # fmt: skip


def test_an_error_of_a_stranger_or_of_a_pod_that_has_answered_changes_nothing() -> None:
    exchange = begin(b"reload", (A,))
    exchange.due(0.0)
    exchange.refused(C, errno.ECONNREFUSED, 0.01)
    assert exchange.take(answer(), A, 0.02)
    exchange.advance((A,), 0.02)
    for now in (0.1, 1.2, 2.4):
        exchange.refused(A, errno.ECONNREFUSED, now)
        exchange.dropped(A, errno.ENOBUFS, now)
    assert not exchange.has_news
    assert statuses(exchange) == {A: ReceiptStatus.CONFIRMED}


def test_it_is_counted_and_timed_until_it_is_over() -> None:
    exchange = begin()
    exchange.due(0.0)
    assert (exchange.count(), exchange.confirmation(0.5, 0.0, False).elapsed) == ((0, 2), 0.5)
    exchange.take(answer(), A, 0.5)
    exchange.take(answer(AnswerStatus.FAILED), B, 0.6)
    assert exchange.is_over(0.6)
    assert (exchange.count(), exchange.confirmation(9.0, 0.0, False).elapsed) == ((1, 1), 0.6)


def test_the_pods_are_followed_with_each_turn() -> None:
    exchange = begin(endpoints=(A,))
    assert asked(exchange.advance((A,), 0.0).due).keys() == {A}
    both = (A, B)
    assert asked(exchange.advance(both, 0.0).due).keys() == {B}
    assert exchange.advance(both, 0.0).due == []
    (other,) = (receipt for receipt in exchange.receipts() if receipt.endpoint == B)
    assert other.joined


def test_changes_are_told_once() -> None:
    exchange = begin()

    def changed() -> list[Receipt]:
        return exchange.advance((A, B), 0.0).receipts

    assert [receipt.tries for receipt in changed()] == [1, 1]
    assert not exchange.has_news
    exchange.take(answer(), A, 0.01)
    assert exchange.has_news
    assert [receipt.endpoint for receipt in changed()] == [A]
    assert changed() == []
    exchange.take(answer(), B, 0.01)
    assert exchange.advance((A, B), 0.01, is_watched=False).receipts == []
    assert not exchange.has_news
