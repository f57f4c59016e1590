"""Waiting for a state: the only place in which tests sleep.

No test may fail because a machine is slow. It waits for what is to be, as long as it takes; `PATIENCE` only ends what
would never end. That nothing happens is shown by what happens instead (a counter, an answer to what was sent later),
not by a time in which nothing came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 120.0
"""Seconds: what has not come by then will not come."""
_SHORTEST, _LONGEST = 0.001, 0.05


def until(condition: Callable[[], T | None], what: str | Callable[[], object] = "") -> T:
    """Return what `condition` returns, once that is true; where it never is, fail and say `what`."""
    for pause in _pauses(what):
        if found := condition():
            return found
        time.sleep(pause)
    raise AssertionError


async def until_async(condition: Callable[[], T | None], what: str | Callable[[], object] = "") -> T:
    """Return what `condition` returns, once that is true; other tasks run meanwhile."""
    for pause in _pauses(what):
        if found := condition():
            return found
        await asyncio.sleep(pause)
    raise AssertionError


async def give_turns(count: int = 1) -> None:
    """Let every other task that can go on do so, so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


def _pauses(what: str | Callable[[], object]) -> Iterator[float]:
    ends, pause = time.monotonic() + PATIENCE, _SHORTEST
    while time.monotonic() < ends:
        yield pause
        pause = min(1.5 * pause, _LONGEST)
    raise AssertionError(f"still not so after {PATIENCE:g} s: {what() if callable(what) else what}")


class Turns:
    """Counts the turns that an event loop gives to others while something runs."""

    def __init__(self) -> None:
        self.count = 0

    async def _run(self) -> None:
        while True:
            self.count += 1
            await give_turns()

    async def __aenter__(self) -> Turns:
        self._task = asyncio.create_task(self._run())
        await give_turns()
        self.count = 0
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._task.cancel()
