"""Event loops whose time does not only pass by itself."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class AheadLoop(asyncio.SelectorEventLoop):
    """Its clock can be put forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def advance(seconds: float) -> None:
    """Put the clock of the running loop forward: what was to happen by then happens next."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, AheadLoop)
    loop.ahead += seconds


class ScriptedLoop(asyncio.SelectorEventLoop):
    """Its time passes when nothing is left to do: what waits an hour is over at once.

    Its sockets are real; what comes to them from another thread or process may come late, by this time.
    """

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: ScriptedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; where nothing is, the time is over."""
        ready = super().select(timeout if timeout is None else 0)
        if not ready and timeout:
            self._loop.now += timeout
        return ready


def run_scripted(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a scripted loop."""
    with asyncio.Runner(loop_factory=ScriptedLoop) as runner:
        return runner.run(main)
