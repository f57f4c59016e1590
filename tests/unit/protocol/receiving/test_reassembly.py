"""Messages in several frames: put together from any order, in memory that claims cannot fill."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import ASK, ASK_MIN, MESSAGE_MAX, NUMBERED, Answer, AnswerStatus, Cut, Fragment, bits
from fanout.protocol.receiving import reassembly
from fanout.protocol.receiving.reassembly import BYTES_MAX, PATIENCE, SENDER_BYTES_MAX, Reassembly
from fanout.protocol.receiving.reception import Reception
from tests.support.frame_client import SENDER, fragments
from tests.support.reception import ME, claim, handed, numbered, take, take_run


@given(st.integers(257, 20_000), st.integers(256, 1200), st.randoms(use_true_random=False), st.booleans())
def test_a_message_is_whole_whatever_the_order_of_its_parts(total: int, size: int, random: object, twice: bool) -> None:
    payload = (b"%08d" * (total // 8 + 1) % tuple(range(total // 8 + 1)))[:total]
    datagrams = fragments(1, payload, flags=NUMBERED, size=size)
    arriving = datagrams * (2 if twice else 1)
    random.shuffle(arriving)  # type: ignore[attr-defined]
    reception = Reception(ME)
    messages, answers = take(reception, *arriving)
    assert [message.payload for message in messages] == [payload]
    assert answers == []
    assert len(reception.plain.reassembly.partial) == 0
    assert reception.plain.reassembly.bytes == 0


def test_who_asks_is_told_what_is_missing() -> None:
    reception = Reception(ME)
    datagrams = fragments(1, bytes(40 * 300), size=300)
    come = [0, 1, 2, 5, 9, 10, 39]
    _, answers = take(reception, *[datagrams[index] for index in come])
    (answer,) = map(frame.decode, answers)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.first_missing) == (AnswerStatus.PARTIAL, 3)
    there = [index for index, present in enumerate(bits(answer.detail), answer.first_missing) if present]
    assert there == come[3:]
    messages, _ = take(reception, *[one for index, one in enumerate(datagrams) if index not in come])
    assert len(messages) == 1


@given(st.lists(st.integers(0, 13_000), min_size=1, max_size=40, unique=True), st.integers(ASK_MIN, 1300))
def test_what_is_missing_fits_the_question_and_is_true(positions: list[int], room: int) -> None:
    reception = Reception(ME)
    cut = Cut(bytes(MESSAGE_MAX), 1200)
    take(reception, *[claim(SENDER, position=position) for position in positions])
    ask = frame.fragment(cut, SENDER, 1, positions[0], flags=ASK)
    _, (datagram,) = take(reception, ask)
    answer = frame.decode(datagram)
    assert isinstance(answer, Answer)
    assert len(datagram) <= len(ask)
    assert answer.first_missing == min(set(range(len(positions) + 1)) - set(positions))
    for position, present in enumerate(bits(answer.detail), answer.first_missing):
        assert present == (position in positions)


def test_a_merged_run_of_fragments_is_one_message() -> None:
    reception = Reception(ME)
    (message,) = handed(take_run(reception, fragments(1, bytes(60_000), flags=0)).runs)
    assert message.payload == bytes(60_000)


def test_fragments_that_do_not_agree_are_refused() -> None:
    reception = Reception(ME)
    take(reception, claim(SENDER, total=5000, size=1000))
    for other in (claim(SENDER, total=5001, size=1000), claim(SENDER, total=5000, size=1001)):
        assert take(reception, other) == ([], [])
    assert reception.counts.refused[ReceiveDrop.MALFORMED] == 2
    messages, _ = take(reception, *[claim(SENDER, total=5000, size=1000, position=index) for index in range(1, 5)])
    assert [message.payload for message in messages] == [bytes(5000)]


def test_what_gets_nothing_new_is_given_up() -> None:
    reception = Reception(ME)
    datagrams = fragments(1, bytes(3000), flags=0)
    take(reception, datagrams[0], now=0.0)
    take(reception, datagrams[1], now=PATIENCE - 1)
    take(reception, datagrams[1], now=PATIENCE + 5)
    reception.give_up(2 * PATIENCE - 2)
    assert reception.counts.refused[ReceiveDrop.INCOMPLETE] == 0
    reception.give_up(2 * PATIENCE - 1)
    assert reception.counts.refused[ReceiveDrop.INCOMPLETE] == 1
    assert take(reception, datagrams[2]) == ([], [])


def test_a_message_that_has_begun_is_taken_however_fast_the_stream_goes_on() -> None:
    reception = Reception(ME)
    first, *rest = fragments(1, bytes(3000), flags=NUMBERED)
    take(reception, first)
    take(reception, numbered(100_000))
    assert len(take(reception, *rest)[0]) == 1
    assert take(reception, first, *rest)[0] == []


def test_a_thousand_who_claim_16_mib_cost_what_they_sent() -> None:
    reception = Reception(ME)
    tracemalloc.start()
    try:
        for sender in range(1, 1001):
            assert take(reception, claim(sender, position=13_980)) == ([], [])
        used, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(reception.plain.reassembly.partial) == 1000
    assert peak < 16 * 1024 * 1024
    assert used < 16 * 1024 * 1024


@pytest.mark.parametrize("size", [256, 1200, 65_000])
@pytest.mark.parametrize("flags", [0, ASK])
def test_fragments_are_bounded_in_all_and_of_each_sender(size: int, flags: int) -> None:
    limit, count = 100 * cost(size), 150
    kept = Reassembly(limit=limit, sender_limit=40 * cost(size))
    now = 0.0
    tracemalloc.start()
    try:
        for sender in (1, 2, 3, 4):
            for number in range(count):
                assert keep(kept, Fragment(sender, number, flags, 0, size, 0, MESSAGE_MAX, bytes(size)), now)
                assert kept.bytes <= limit
                now += 0.2
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 1.3 * limit
    assert len(kept.partial) == 100
    assert kept.given_up == 4 * count - len(kept.partial)
    assert (4, count - 1) in kept.partial, "the oldest make room"
    assert (1, 0) not in kept.partial


def cost(size: int) -> int:
    """What a message costs of which one fragment came."""
    return reassembly._MESSAGE_OVERHEAD + reassembly._FRAGMENT_OVERHEAD + size


def keep(kept: Reassembly, fragment: Fragment, now: float) -> bool:
    """Keep a fragment; return whether there was room for it."""
    key = (fragment.sender, fragment.number)
    partial = kept.find(key, fragment)
    assert partial is not None
    return kept.take(key, partial, fragment, now)


def part(number: int, position: int, flags: int = ASK, sender: int = SENDER) -> Fragment:
    return Fragment(sender, number, flags, 0, 10_000, position, 40_000, bytes(10_000))


def test_what_nobody_asks_for_makes_room_for_what_somebody_does() -> None:
    kept = Reassembly(limit=70_000, sender_limit=70_000)
    for number in (1, 2, 3):
        assert keep(kept, part(number, 0, flags=ASK if number == 2 else 0), 0.0)
        assert keep(kept, part(number, 1, flags=0), 0.0)
    assert [number for _, number in kept.partial] == [1, 2, 3]
    assert keep(kept, part(4, 0), 0.1)
    assert [number for _, number in kept.partial] == [2, 3, 4]
    assert kept.given_up == 1


@pytest.mark.parametrize("limits", [(70_000, 1_000_000), (1_000_000, 70_000)])
def test_of_messages_that_go_on_one_becomes_whole_however_many_there_are(limits: tuple[int, int]) -> None:
    kept = Reassembly(*limits)
    whole: set[int] = set()
    now = 0.0
    for _ in range(40):
        for number in {1, 2, 3, 4, 5, 6} - whole:
            partial = kept.partial.get((SENDER, number))
            position = 0 if partial is None else partial.gaps(1)[0]
            now += 0.01
            keep(kept, part(number, position), now)
            partial = kept.partial.get((SENDER, number))
            if partial is not None and not partial.missing:
                kept.remove((SENDER, number))
                whole.add(number)
    assert len(whole) == 6
    assert len(kept.partial) == kept.bytes == 0


def test_a_message_that_goes_on_is_not_given_up_for_a_new_one() -> None:
    kept = Reassembly(limit=70_000, sender_limit=70_000)
    for position in range(3):
        assert keep(kept, part(1, position), 0.0)
        assert keep(kept, part(2, position), 0.0)
    assert not keep(kept, part(3, 0, flags=0), 0.5)
    assert keep(kept, part(3, 0), 1.5), "nothing new came of the others for long"
    assert kept.given_up == 1


def test_who_asks_while_there_is_no_room_is_told_that_nothing_is_there() -> None:
    reception = Reception(ME)
    reception.plain.reassembly = Reassembly(limit=15_000)
    for sender in (1, 2):
        take(reception, claim(sender, size=6000))
        asks = frame.fragment(Cut(bytes(MESSAGE_MAX), 6000), sender, 1, 0, flags=ASK)
        _, (datagram,) = take(reception, asks)
    answer = frame.decode(datagram)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.first_missing, answer.detail) == (AnswerStatus.PARTIAL, 0, b"\0")
    assert reception.counts.refused[ReceiveDrop.NO_ROOM] == 2
    assert reception.counts.refused[ReceiveDrop.INCOMPLETE] == 0


def test_the_largest_message_fits_in_the_smallest_fragments() -> None:
    parts = frame.fragment_count(MESSAGE_MAX, frame.FRAGMENT_MIN)
    overhead = reassembly._FRAGMENT_OVERHEAD
    assert MESSAGE_MAX + parts * overhead + 1000 < SENDER_BYTES_MAX < BYTES_MAX


@pytest.mark.parametrize(
    ("size", "position", "total"),
    [
        (0, 0, 10),
        (1200, 0, MESSAGE_MAX + 1),
        (1200, 1, 1200),
        (255, 0, 1000),
        (1, 0, MESSAGE_MAX),
        (300, 2**32 - 1, 900),
    ],
)
def test_impossible_counts_are_refused(size: int, position: int, total: int) -> None:
    reception = Reception(ME)
    fields = frame.FRAGMENT.pack(ASK, 0, size, position, total)
    datagram = frame.header(frame.FrameKind.FRAGMENT, SENDER, 1) + fields + bytes(2000)
    assert take(reception, datagram) == ([], [])
    assert reception.counts.refused[ReceiveDrop.MALFORMED] == 1
    assert len(reception.plain.reassembly.partial) == 0
