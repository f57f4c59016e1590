"""Joins datagrams that are adjacent in a buffer into runs that leave as one send. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fanout.model import MAX_PAYLOAD
from fanout.protocol.sending.batch import SEGMENTS_MAX, Segments

Piece = tuple[int, int, int]
"""What one call returned, a datagram or several: its begin, its end, and the bytes of each but the last."""


def join(buffer: memoryview, pieces: Sequence[Piece]) -> list[Segments]:
    """Return the runs of adjacent pieces: at most 64 segments and 65,507 bytes each.

    In their order, so that each receiver gets the datagrams in the order in which they came.
    """
    runs: list[Segments] = []
    first, last, segment, datagrams = 0, 0, 0, 0
    is_open = False  # whether more segments may follow: none was shorter than the others
    for start, end, size in pieces:
        count = -(-(end - start) // size) if size else 1
        if (
            is_open
            and (size == segment or (count == 1 and 0 < size < segment))
            and end - first <= MAX_PAYLOAD
            and datagrams + count <= SEGMENTS_MAX
        ):
            last = end
            datagrams += count
        else:
            if datagrams:
                runs.append(Segments(buffer[first:last], segment, datagrams))
            first, last, segment, datagrams = start, end, size, count
        is_open = size > 0 and size == segment and (end - start) % size == 0
    if datagrams:
        runs.append(Segments(buffer[first:last], segment, datagrams))
    return runs
