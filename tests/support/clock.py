"""A clock for streams: it goes on when somebody sleeps, and not by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest


class _Turn:
    """What others do in one turn of an event loop."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class ScriptedClock:
    """Takes the place of time where both senders pace a stream."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def pace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let it be the clock of each stream that begins in this test, and of its event loop's sleeps."""

        async def sleep(seconds: float) -> None:
            self.now += seconds
            await _Turn()

        monkeypatch.setattr("fanout.coalescing.time", self)
        monkeypatch.setattr("fanout.fan_out.monotonic", self.monotonic)
        monkeypatch.setattr("fanout.async_sender.monotonic", self.monotonic)
        monkeypatch.setattr(asyncio, "sleep", sleep)
