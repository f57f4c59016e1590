"""Datagrams in a row, cut into runs: nothing is lost, moved or joined, and each run is one that the kernel takes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from fanout.batch import SEGMENTS_MAX
from fanout.model import MAX_PAYLOAD
from fanout.relay.runs import Piece, Run, join

SIZES = st.one_of(st.sampled_from([0, 1, 2, 100, 1400, 30_000, 65_507]), st.integers(0, 65_507))


@st.composite
def rows_of_pieces(draw: st.DrawFn) -> list[Piece]:
    pieces: list[Piece] = []
    at = 0
    for size in draw(st.lists(SIZES, max_size=90)):
        most = min(SEGMENTS_MAX, MAX_PAYLOAD // size) if size else 1
        count = draw(st.sampled_from([1, 1, 1, 2, 3, most])) if most > 1 else 1
        count = min(count, most)
        last = draw(st.integers(1, size)) if count > 1 else size
        end = at + size * (count - 1) + last
        pieces.append((at, end, size))
        at = end
    return pieces


def datagrams(pieces: Sequence[Piece | Run]) -> list[tuple[int, int]]:
    """Where each datagram begins and ends."""
    found = []
    for piece in pieces:
        start, end, size, *_ = piece
        found += [(at, min(at + size, end)) for at in range(start, end, size)] if size else [(start, end)]
    return found


@given(rows_of_pieces())
def test_runs_hold_what_the_pieces_held(pieces: list[Piece]) -> None:
    runs = join(pieces)
    assert datagrams(runs) == datagrams(pieces)
    for start, end, size, count in runs:
        assert count == len(datagrams([Run(start, end, size, count)])) <= SEGMENTS_MAX
        assert end - start <= MAX_PAYLOAD


def test_equal_neighbours_leave_together_and_a_shorter_one_ends_the_run() -> None:
    ends = [100, 200, 300, 350, 450, 550, 700]
    pieces = [(start, end, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    assert join(pieces) == [Run(0, 350, 100, 4), Run(350, 550, 100, 2), Run(550, 700, 150, 1)]


def test_empty_datagrams_are_by_themselves() -> None:
    pieces = [(0, 0, 0), (0, 5, 5), (5, 5, 0), (5, 10, 5)]
    assert join(pieces) == [Run(0, 0, 0, 1), Run(0, 5, 5, 1), Run(5, 5, 0, 1), Run(5, 10, 5, 1)]


def test_nothing_makes_no_run() -> None:
    assert join([]) == []
