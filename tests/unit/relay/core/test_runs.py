"""Datagrams in a row, cut into runs: nothing is lost, moved or joined, and each run is one that the kernel takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.model import MAX_PAYLOAD
from fanout.protocol.sending.batch import SEGMENTS_MAX
from fanout.relay.core.runs import Piece, join

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


def datagrams(data: memoryview | bytes, size: int) -> list[bytes]:
    return [bytes(data[at : at + size]) for at in range(0, len(data), size)] if size else [bytes(data)]


_PATTERN = bytes(index // 7 for index in range(7 * 251))


def buffer_of(pieces: list[Piece]) -> memoryview:
    """Bytes that tell where they lie."""
    size = pieces[-1][1] if pieces else 0
    return memoryview(_PATTERN * (size // len(_PATTERN) + 1))[:size]


@given(rows_of_pieces())
def test_runs_hold_what_the_pieces_held(pieces: list[Piece]) -> None:
    buffer = buffer_of(pieces)
    runs = join(buffer, pieces)
    assert [each for run in runs for each in datagrams(run.data, run.size)] == [
        each for start, end, size in pieces for each in datagrams(buffer[start:end], size)
    ]
    for data, size, count in runs:
        assert count == len(datagrams(data, size)) <= SEGMENTS_MAX
        assert len(data) <= MAX_PAYLOAD


def sizes(pieces: list[Piece]) -> list[tuple[int, int, int]]:
    return [(len(run.data), run.size, run.datagrams) for run in join(buffer_of(pieces), pieces)]


def test_equal_neighbours_leave_together_and_a_shorter_one_ends_the_run() -> None:
    ends = [100, 200, 300, 350, 450, 550, 700]
    pieces = [(start, end, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    assert sizes(pieces) == [(350, 100, 4), (200, 100, 2), (150, 150, 1)]


def test_empty_datagrams_are_by_themselves() -> None:
    assert sizes([(0, 0, 0), (0, 5, 5), (5, 5, 0), (5, 10, 5)]) == [(0, 0, 1), (5, 5, 1), (0, 0, 1), (5, 5, 1)]


def test_nothing_makes_no_run() -> None:
    assert join(memoryview(b""), []) == []
