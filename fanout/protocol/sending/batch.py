"""Messages that leave together, cut into parts for one system call per pod. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from fanout.model import MAX_PAYLOAD

SEGMENTS_MAX = 64
"""Segments in one GSO send (UDP_MAX_SEGMENTS, include/linux/udp.h; 128 since Linux 6.9)."""


class Segments(NamedTuple):
    """Consecutive datagrams in one buffer: all of `size` bytes except the last, which may be shorter."""

    data: memoryview | bytes
    size: int
    datagrams: int


class BatchPart(NamedTuple):
    """Consecutive messages of a batch, from index `first` on.

    A merged part is a run of equal payloads (the last may be shorter) for one GSO send per pod. The messages of
    any other part leave one by one.
    """

    first: int
    length: int
    merged: bool


class Batch:
    """Payloads in their order, cut into parts.

    Consecutive payloads of up to `gso_limit` bytes and equal size are merged: at most 64, and 65,507 bytes in
    total (man 7 udp, UDP_SEGMENT); 0 merges nothing.

    A batch's copies to N pods have positions from 0 to `len(payloads) * N`, in the order in which they are
    attempted. A merged part goes pod by pod, another part message by message; either way each pod gets the
    messages in their order.
    """

    __slots__ = ("_firsts", "parts", "payloads")

    def __init__(self, payloads: Sequence[bytes], gso_limit: int) -> None:
        self.payloads: Sequence[bytes] = payloads
        self.parts: list[BatchPart] = _cut(payloads, gso_limit)
        self._firsts = [part.first for part in self.parts]

    def part_at(self, position: int, pods: int) -> BatchPart:
        """Return the part that the copy at `position` belongs to."""
        return self.parts[bisect_right(self._firsts, position // pods) - 1]

    def copy_at(self, position: int, pods: int) -> tuple[int, int]:
        """Return the message and the pod, as indexes, of the copy at `position`."""
        message, pod = divmod(position, pods)
        part = self.part_at(position, pods)
        if part.merged:
            pod, message = divmod(position - part.first * pods, part.length)
            message += part.first
        return message, pod

    def after(self, position: int, pods: int, sends: int) -> int:
        """Return the position after about `sends` sends from `position`: a merged run is one send."""
        total = len(self.payloads) * pods
        while sends > 0 and position < total:
            part = self.part_at(position, pods)
            end = (part.first + part.length) * pods
            per_send = part.length if part.merged else 1
            taken = min(sends, -(-(end - position) // per_send))
            sends -= taken
            position = min(position + taken * per_send, end)
        return position


def _cut(payloads: Sequence[bytes], gso_limit: int) -> list[BatchPart]:
    parts: list[BatchPart] = []
    total = len(payloads)
    sizes = list(map(len, payloads))
    single = 0  # the first message not in a part yet
    index = 0
    while index < total:
        size = sizes[index]
        end = index + 1
        if 0 < size <= gso_limit:
            last = min(total, index + min(SEGMENTS_MAX, MAX_PAYLOAD // size))
            while end < last and sizes[end] == size:
                end += 1
            if end < last and 0 < sizes[end] < size:
                end += 1
        if end - index > 1:
            if single < index:
                parts.append(BatchPart(single, index - single, merged=False))
            parts.append(BatchPart(index, end - index, merged=True))
            single = end
        index = end
    if single < total:
        parts.append(BatchPart(single, total - single, merged=False))
    return parts
