"""Which numbers of a stream came: exact for the last so many, and never wrong about what was forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol.sequence import Arrival, Sequence

WINDOW = 8


@given(st.lists(st.integers(0, 40), max_size=60))
def test_a_number_is_what_its_definition_says(numbers: list[int]) -> None:
    sequence = Sequence(WINDOW)
    came: set[int] = set()
    expected = 0
    for number in numbers:
        if number >= expected:
            arrival = Arrival.NEW
        elif number < expected - WINDOW:
            arrival = Arrival.STALE
        else:
            arrival = Arrival.DUPLICATE if number in came else Arrival.LATE
        assert sequence.arrived(number) is arrival
        came.add(number)
        expected = max(expected, number + 1)
        assert sequence.expected == expected


@given(st.integers(0, 20), st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=10))
def test_a_run_is_as_its_numbers_one_by_one(first: int, steps: list[tuple[bool, int]]) -> None:
    """Also where it is as long as the window, or longer, and goes around its end."""
    at_once, one_by_one = Sequence(WINDOW, first), Sequence(WINDOW, first)
    for has_come, count in steps:
        if has_come:
            at_once.run_arrived(count)
            for _ in range(count):
                assert one_by_one.arrived(one_by_one.expected) is Arrival.NEW
        else:
            at_once.skip(count)
            for _ in range(count):
                one_by_one.skip(1)
        assert (at_once.expected, at_once.seen) == (one_by_one.expected, one_by_one.seen)
