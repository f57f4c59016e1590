"""Runs of datagrams: which frames go on by one is found at once, and never where it is not so."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol.frame import HEADER, NUMBER_AT
from fanout.protocol.receiving.dedup import Order
from fanout.protocol.receiving.run import Run, Track, all_begin_alike, in_a_row, is_in_a_row, outer_numbers
from tests.support.reception import numbered


def frames(numbers: list[int], payload: bytes = b"abc") -> tuple[bytes, int, int]:
    made = [numbered(number, payload) for number in numbers]
    return b"".join(made), len(made[0]), len(made)


@given(st.integers(1, 2**64 - 1000), st.integers(1, 300))
def test_numbers_are_read_all_at_once(first: int, count: int) -> None:
    numbers = list(range(first, first + count))
    data, segment, count = frames(numbers)
    assert list(outer_numbers(segment, count).unpack_from(data)) == numbers


@given(st.integers(1, 70_000), st.lists(st.sampled_from([1, 1, 1, 1, 0, 2, 256]), max_size=40))
def test_only_what_goes_on_by_one_is_in_a_row(first: int, steps: list[int]) -> None:
    numbers = [first]
    for step in steps:
        numbers.append(numbers[-1] + step)
    data, segment, count = frames(numbers)
    is_so = set(steps) <= {1}
    if is_in_a_row(data, segment, count):
        assert is_so
    else:
        carries = first // 65_536 != numbers[-1] // 65_536
        assert not is_so or carries or first % 65_536 + count > 65_280


def test_frames_of_another_sender_or_kind_do_not_begin_alike() -> None:
    data, segment, count = frames([1, 2, 3])
    assert all_begin_alike(data, segment, count)
    for at in range(NUMBER_AT):
        changed = bytearray(data)
        changed[segment + at] ^= 1
        assert not all_begin_alike(bytes(changed), segment, count)
        assert not is_in_a_row(bytes(changed), segment, count)
    assert segment == HEADER.size + 3


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_numbers_are_cut_where_they_do_not_go_on_by_one(numbers: list[int]) -> None:
    parts = [numbers[start:stop] for start, stop in in_a_row(tuple(numbers))]
    assert [number for part in parts for number in part] == numbers
    assert all(part == list(range(part[0], part[0] + len(part))) for part in parts)
    assert all(after[0] != before[-1] + 1 for before, after in pairwise(parts))


def test_a_datagram_of_a_run_has_its_source_and_time() -> None:
    run = Run(b"aabb", 2, 2, ("10.0.0.7", 1), 5.0)
    assert run.of(b"bb") == Run(b"bb", 2, 1, ("10.0.0.7", 1), 5.0)


def test_what_is_missing_is_known_when_a_part_of_a_run_is_handed_over() -> None:
    order = Order()
    order.begin(10)
    track = Track(order, 10)
    assert track.handed(0, 2) == []
    assert track.handed(4, 2) == [(0, 2)], "12 and 13 were dropped from the queue"
