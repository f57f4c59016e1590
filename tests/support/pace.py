"""How fast this machine is: what a test may take is told in relation to that, not in seconds."""

from __future__ import annotations

import functools
import math
import time


@functools.cache
def a_million_additions() -> float:
    """Seconds of the processor; it is 0.05 where these tests were written."""
    least = math.inf
    for _ in range(5):
        started = time.thread_time()
        total = 0
        for number in range(1_000_000):
            total += number & 3
        least = min(least, time.thread_time() - started)
    return least
