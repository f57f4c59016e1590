"""What a receiver knows of each sender: gaps in the order of its numbers, and what became of messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol.frame import AnswerStatus
from fanout.protocol.receiving import dedup
from fanout.protocol.receiving.dedup import CONFIRMED, JUMP_MAX, REASON_MAX, WINDOW, DedupTable, HandlingResult, Order
from fanout.protocol.sequence import Arrival

SENDER, OTHER = 7, 8


def test_the_gap_is_what_is_missing_directly_before_a_number() -> None:
    order = Order()
    assert order.met(5, 1) == [], "the first one begins it"
    assert order.met(6, 2) == []
    assert order.met(10, 2) == [(0, 2)]
    assert order.met(8, 1) == [(0, -1)], "it was counted as missing"
    assert order.met(2, 1) == [(0, 2)], "3 and 4 were never counted"
    assert (order.first, order.next) == (2, 12)


def test_numbers_in_a_row_may_begin_behind_and_go_on_ahead() -> None:
    order = Order()
    order.met(5, 1)
    order.met(8, 1)
    assert order.met(6, 5) == [(0, -1), (1, -1), (2, -1)], "9 and 10 are just the next"
    assert (order.first, order.next) == (5, 11)


def test_what_leaps_too_far_begins_anew_ahead_and_is_nothing_behind() -> None:
    order = Order()
    order.met(1, 1)
    assert order.met(2 + JUMP_MAX, 1) == [(0, JUMP_MAX)]
    ahead = order.next + JUMP_MAX + 1
    assert order.met(ahead, 1) == []
    assert (order.first, order.next) == (ahead, ahead + 1)
    assert order.met(ahead - JUMP_MAX - 1, 1) == []
    assert (order.first, order.next) == (ahead, ahead + 1)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 8)), min_size=1, max_size=20))
def test_the_sum_of_gaps_is_what_was_never_met(runs: list[tuple[int, int]]) -> None:
    """Of numbers that are met once each, in any order."""
    order = Order()
    met: set[int] = set()
    total = 0
    for first, count in runs:
        fresh = [number for number in range(first, first + count) if number not in met]
        if len(fresh) == count:
            total += sum(gap for _, gap in order.met(first, count))
            met.update(fresh)
    assert total == max(met) - min(met) + 1 - len(met)


@pytest.mark.parametrize(
    ("came", "number", "origin", "missing"),
    [([], 9, 4, 6), ([5, 6], 6, 5, 0), ([5, 6], 9, 5, 3), ([5, 6], 6, 2, 3), ([5], 7, 3, 4)],
)
def test_a_mark_says_what_is_missing_at_both_ends(came: list[int], number: int, origin: int, missing: int) -> None:
    order = Order()
    for each in came:
        order.met(each, 1)
    assert order.marked(number, origin) == missing
    assert order.marked(number, origin) == 0, "it was said"


def test_a_reason_is_cut_and_a_message_is_pending_until_it_is_settled() -> None:
    table = DedupTable()
    table.pending[SENDER, 1] = object()
    table.settle((SENDER, 1), HandlingResult.failed("x" * 999))
    assert table.results.get((SENDER, 1)) == (AnswerStatus.FAILED, b"x" * REASON_MAX, None)
    assert not table.pending


def test_kept_replies_make_room_and_the_newest_stays_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "REPLIES_MAX", 2000)
    table = DedupTable()
    for number in range(3):
        table.settle((SENDER, number), HandlingResult.replied(bytes(600)))
    details = [result.detail for number in range(3) if (result := table.results.get((SENDER, number)))]
    assert details == [b"its reply was dropped to keep newer ones"] * 2 + [b""]
    table.settle((SENDER, 3), HandlingResult.replied(bytes(5000)))
    newest, before = table.results.get((SENDER, 3)), table.results.get((SENDER, 2))
    assert newest is not None
    assert newest.reply is not None
    assert before is not None
    assert before.status is AnswerStatus.FAILED


def test_a_released_message_is_new_again_and_counted_once() -> None:
    table = DedupTable()
    peer = table.peer(SENDER, 1)
    table.arrived(peer, 1, numbered=True)
    assert peer.state(1) is Arrival.DUPLICATE
    table.release((SENDER, 1))
    assert peer.state(1) is Arrival.LATE
    table.arrived(peer, 1, numbered=True)
    assert (table.totals.received, table.totals.reordered) == (1, 0)


def test_nothing_is_released_that_is_not_known_or_was_too_long_ago() -> None:
    table = DedupTable(senders=1)
    peer = table.peer(SENDER, 1)
    table.arrived(peer, 1, numbered=False)
    table.arrived(peer, 1 + 2 * WINDOW, numbered=False)
    table.release((SENDER, 1))
    table.release((OTHER, 1))
    assert peer.state(1) is Arrival.STALE
    table.peer(OTHER, 1)
    table.release((SENDER, 1 + 2 * WINDOW))
    assert table.peer(SENDER, 1) is not peer, "it was forgotten"
    table.arrived(table.peer(SENDER, 1), 1, numbered=False)
    assert table.totals.received == 3, "nothing of what was released in vain is taken for counted"


def test_of_what_was_released_the_oldest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "WINDOW", 4)
    table = DedupTable()
    peer = table.peer(SENDER, 1)
    table.arrived(peer, 1, numbered=False)
    others = [table.peer(sender, 1) for sender in range(10, 14)]
    for each in others:
        table.arrived(each, 1, numbered=False)
    for each in (peer, *others):
        table.release((each.sender, 1))
    before = table.totals.received
    for each in (peer, *others):
        table.arrived(each, 1, numbered=False)
    assert table.totals.received - before == 1, "the first one, of which it is forgotten that it was counted"


def test_the_quietest_sender_makes_room_and_is_new_no_more() -> None:
    table = DedupTable(is_sealed=True, senders=2)
    first = table.peer(1, 1)
    table.peer(2, 1)
    assert table.peer(1, 1) is first
    assert first.is_new
    table.peer(3, 1)
    assert [counts.sender for counts in table.senders()] == [f"{1:016x}", f"{3:016x}"]
    assert all(counts.sealed for counts in table.senders())
    assert not table.peer(2, 1).is_new
    assert CONFIRMED.reply is None
