"""The receiver's side of frames, without a socket: whatever comes, each message is handed over once, and counted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import NUMBER_LIMIT, NUMBERED, AnswerStatus
from fanout.protocol.receiving.dedup import JUMP_MAX, WINDOW
from fanout.protocol.receiving.reception import Reception
from fanout.protocol.receiving.run import is_in_a_row
from tests.support.frame_client import SENDER, fragments
from tests.support.reception import (
    ME,
    confirmed,
    handed,
    mutated,
    numbered,
    replied,
    take,
    take_run,
    taken_pending,
    told,
)

# Numbered streams.


def truth(numbers: list[int]) -> tuple[list[int], int, int]:
    """Return which are handed over, how many are duplicates, and how many are lost, all numbers being remembered."""
    kept = list(dict.fromkeys(numbers))
    return kept, len(numbers) - len(kept), max(kept) - min(kept) + 1 - len(kept)


def streams() -> st.SearchStrategy[list[int]]:
    """Numbers as they may come: with loss, duplicates and late ones; one byte says what becomes of each."""

    def arrange(count: int, first: int, fates: bytes) -> list[int]:
        arrivals = sorted(
            (number + _DELAYS[fate // len(_COPIES) % len(_DELAYS)], number)
            for number, fate in enumerate(fates[:count], first)
            for _ in range(_COPIES[fate % len(_COPIES)])
        )
        return [number for _, number in arrivals]

    first = st.sampled_from([1, 2, 1000, NUMBER_LIMIT - 200])
    return st.builds(arrange, st.integers(1, 80), first, st.binary(min_size=80, max_size=80)).filter(bool)


_COPIES, _DELAYS = (1, 1, 1, 1, 0, 2), (0, 0, 0, 0, 1, 7, 30)
lengths_of_runs = st.binary(max_size=20).map(lambda drawn: [1 + each % 64 for each in drawn])


def runs_of(numbers: list[int], lengths: list[int], make: Any) -> list[list[bytes]]:
    runs = []
    rest = [make(number) for number in numbers]
    for length in [*lengths, len(rest)]:
        if rest:
            runs.append(rest[:length])
            rest = rest[length:]
    return runs


@given(streams(), lengths_of_runs)
def test_a_stream_is_handed_over_once_and_its_loss_is_exact(numbers: list[int], lengths: list[int]) -> None:
    reception = Reception(ME)
    messages = []
    for run in runs_of(numbers, lengths, lambda number: numbered(number, b"%019d" % number)):
        taken = take_run(reception, run)
        assert taken.answers == []
        messages += handed(taken.runs)
    kept, duplicates, lost = truth(numbers)
    assert [int(message.payload) for message in messages] == kept
    assert sum(message.gap for message in messages) == lost
    assert all(message.gap >= -1 for message in messages)
    assert reception.counts.skipped - reception.counts.reordered == lost
    assert reception.counts.duplicates == reception.counts.refused[ReceiveDrop.DUPLICATE] == duplicates
    (sender,), counts = reception.senders(), reception.counts
    assert sender == (f"{SENDER:016x}", False, len(kept), counts.skipped, counts.reordered, duplicates)


@given(streams(), lengths_of_runs, st.integers(0, 2**160 - 1))
def test_gaps_tell_what_the_queue_dropped_as_well(numbers: list[int], lengths: list[int], kept: int) -> None:
    reception = Reception(ME)
    messages = []
    count = 0
    for datagrams in runs_of(numbers, lengths, numbered):
        for run in take_run(reception, datagrams).runs:
            count += 1
            if kept >> count & 1:
                assert run.track is not None
                messages += [(run.track.first + index, each.gap) for index, each in enumerate(handed([run]))]
    if messages:
        got = [number for number, _ in messages]
        first, after = min([*got, numbers[0]]), max(max(got) + 1, numbers[0])
        assert sum(gap for _, gap in messages) == after - first - len(got)


@given(
    st.lists(st.sampled_from(["numbered", "plain", "ask", "other", "odd"]), min_size=1, max_size=64),
    st.integers(40, 60),
)
def test_a_run_of_everything_is_taken_apart_in_its_order(kinds: list[str], last: int) -> None:
    size = 160
    made = {
        "numbered": lambda at: numbered(at + 1, b"n%d" % at),
        "plain": lambda at: b"p%d" % at,
        "ask": lambda at: fragments(at + 1, b"a%d" % at)[0],
        "other": lambda at: numbered(at + 1, b"o%d" % at, sender=7),
        "odd": lambda at: frame.MAGIC + b"\x09\x01%d" % at,
    }
    datagrams = [made[kind](at).ljust(size, b"\0") for at, kind in enumerate(kinds)]
    datagrams[-1] = datagrams[-1][:last]
    reception = Reception(ME)
    messages = handed(take_run(reception, datagrams).runs)
    cut_off = kinds[-1] == "ask"
    expected = [
        kind[0].encode() + b"%d" % at
        for at, kind in enumerate(kinds)
        if kind != "odd" and not (cut_off and at == len(kinds) - 1)
    ]
    assert [message.payload.rstrip(b"\0") for message in messages] == expected
    assert reception.counts.refused[ReceiveDrop.UNKNOWN_VERSION] == kinds.count("odd")


@given(
    st.sampled_from([0, 2**8, 2**16, 2**16 - 2**8, 2**24, 2**62]),
    st.integers(-300, 300),
    st.integers(1, 256),
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, frame.HEADER.size - 1), st.integers(1, 255)), max_size=2),
)
def test_runs_are_told_apart_by_columns_as_well_as_one_by_one(
    base: int, offset: int, count: int, flips: list[tuple[int, int, int]]
) -> None:
    first = max(1, base + offset)
    datagrams = [numbered(number, b"payload") for number in range(first, first + count)]
    for index, at, value in flips:
        changed = bytearray(datagrams[index % count])
        changed[at] ^= value
        datagrams[index % count] = bytes(changed)
    numbers = [int.from_bytes(datagram[16:24], "big") for datagram in datagrams]
    is_one = len({datagram[:16] for datagram in datagrams}) == 1 and numbers == list(
        range(numbers[0], numbers[0] + count)
    )
    found = is_in_a_row(b"".join(datagrams), len(datagrams[0]), count)
    assert found == is_one or (is_one and numbers[0] >> 16 != numbers[-1] >> 16), "it may only miss a far turn"


def test_a_number_far_behind_is_too_old_and_who_asks_is_told() -> None:
    reception = Reception(ME)
    take(reception, numbered(1), numbered(WINDOW + 2))
    assert take(reception, numbered(1))[0] == []
    messages, answers = take(reception, *fragments(1, b"x"))
    assert messages == []
    assert told(answers)[0] is AnswerStatus.REFUSED
    assert reception.counts.refused[ReceiveDrop.TOO_OLD] == 2
    assert len(take(reception, numbered(3))[0]) == 1


@pytest.mark.parametrize(
    ("came", "mark", "lost"),
    [
        ([5, 6], (6, 5), 0),
        ([5, 6], (9, 5), 3),
        ([5, 6], (6, 1), 4),
        ([5, 8], (9, 3), 5),
        ([], (9, 3), 7),
        ([5], (4, 2), 3),
    ],
)
def test_a_mark_tells_what_was_lost_at_both_ends(came: list[int], mark: tuple[int, int], lost: int) -> None:
    reception = Reception(ME)
    take(reception, *map(numbered, came))
    for _ in range(2):
        take(reception, frame.mark(SENDER, *mark))
        assert reception.counts.skipped - reception.counts.reordered == lost
    late = [number for number in range(mark[1], mark[0] + 1) if number not in came]
    assert len(take(reception, *map(numbered, late))[0]) == len(late)
    assert reception.counts.skipped - reception.counts.reordered == lost - len(late)


def test_the_numbers_of_who_does_not_number_its_messages_tell_nothing() -> None:
    reception = Reception(ME)
    messages, _ = take(reception, *fragments(2, b"x"), *fragments(9, b"y"), *fragments(5, b"z"), *fragments(5, b"z"))
    assert [message.gap for message in messages] == [0, 0, 0]
    assert (reception.counts.skipped, reception.counts.reordered, reception.counts.duplicates) == (0, 0, 0)


def test_a_large_message_has_its_place_in_the_stream() -> None:
    reception = Reception(ME)
    large = fragments(2, bytes(3000), flags=NUMBERED)
    messages, _ = take(reception, numbered(1), *large[:-1], numbered(4), large[-1], numbered(5))
    assert [message.gap for message in messages] == [0, 2, -1, 0]
    assert (reception.counts.skipped, reception.counts.reordered) == (2, 1)


@pytest.mark.parametrize("leap", [numbered(NUMBER_LIMIT - 9), frame.mark(SENDER, NUMBER_LIMIT - 10, 5)])
def test_one_forged_frame_does_not_spoil_the_counts_for_good(leap: bytes) -> None:
    reception = Reception(ME)
    first, _ = take(reception, numbered(1), numbered(3), leap)
    last, _ = take(reception, numbered(NUMBER_LIMIT - 7), numbered(NUMBER_LIMIT - 11), numbered(NUMBER_LIMIT - 12))
    assert sum(message.gap for message in first) == 1
    assert 0 <= reception.counts.skipped - reception.counts.reordered <= 4
    assert reception.counts.skipped < JUMP_MAX
    take(reception, frame.mark(SENDER, NUMBER_LIMIT - 1, 1))
    assert reception.counts.skipped < JUMP_MAX
    assert len(last) == 3


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 62), st.integers(-2, 2)), max_size=30))
def test_whatever_numbers_are_forged_no_more_came_late_than_were_missing(steps: list[tuple[bool, int, int]]) -> None:
    reception = Reception(ME)
    for is_mark, power, offset in steps:
        before = reception.counts.skipped
        number = min(max(1, 2**power + offset), NUMBER_LIMIT - 1)
        take(reception, frame.mark(SENDER, number, max(1, number - 2)) if is_mark else numbered(number))
        assert 0 <= reception.counts.skipped - before <= 2 * JUMP_MAX
        assert reception.counts.reordered <= reception.counts.skipped


# Whatever comes.


@given(
    st.lists(st.lists(mutated() | st.binary(max_size=60).map(frame.MAGIC.__add__), min_size=1, max_size=8), max_size=6),
    st.booleans(),
)
def test_whatever_comes_is_counted_and_never_answered_with_more(runs: list[list[bytes]], settle: bool) -> None:
    reception = Reception(ME)
    for run in runs:
        size = len(run[0])
        datagrams = [one.ljust(size, b"\0")[:size] for one in run]
        before = sum(reception.counts.refused.values())
        taken = take_run(reception, datagrams)
        assert len(taken.answers) <= len(datagrams)
        assert all(len(answer) <= size for answer in taken.answers)
        dropped = sum(reception.counts.refused.values()) - before
        assert dropped + sum(each.messages for each in taken.runs) <= len(datagrams)
        for message in handed(taken.runs):
            if message.pending is not None and settle:
                assert sum(map(len, replied(message.pending, b"reply"))) <= size


def test_a_receiver_that_was_renamed_answers_under_its_new_name() -> None:
    reception = Reception(ME)
    confirmed(taken_pending(reception, *fragments(1, b"x")))
    reception.rename(ME + 1, 5)
    (datagram,) = take(reception, *fragments(1, b"x"))[1]
    answer = frame.decode(datagram)
    assert isinstance(answer, frame.Answer)
    assert (answer.sender, answer.status) == (ME + 1, AnswerStatus.CONFIRMED)
