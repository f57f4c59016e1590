"""Messages of all sizes, in an order in which runs of equal ones begin and end in every way."""

from __future__ import annotations

import random

SIZES = [
    *[1400] * 100,
    *[200] * 65,  # one more than a run holds
    7,  # a shorter one ends a run
    *[1472] * 3,  # what the path's MTU carries
    *[1473] * 3,  # and what it does not: fragments
    *[1] * 70,
    *range(2, 60),
    *[4000] * 4,
    *[600, 300] * 20,
]
PAYLOADS = [random.Random(number).randbytes(size) for number, size in enumerate(SIZES)]


def _parts(count: int, size: int) -> list[list[bytes]]:
    cut: list[list[bytes]] = [[]]
    for payload in PAYLOADS:
        if len(cut[-1]) == count or sum(map(len, cut[-1])) + len(payload) > size:
            cut.append([])
        cut[-1].append(payload)
    return cut


PARTS = _parts(100, 50_000)
"""The same in parts that the kernel's default receive buffer holds, however late it is read."""
