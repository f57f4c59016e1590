"""A clock for streams: it goes on when they pause, and not by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import SimpleNamespace

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

    def advance(self, seconds: float) -> None:
        self.now += seconds

    async def advance_and_give_a_turn(self, seconds: float) -> None:
        self.now += seconds
        await _Turn()

    def pace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let it be the clock of each stream that begins in this test: a pause puts it forward instead."""
        monkeypatch.setattr(
            "fanout.sender.coalescer.time", SimpleNamespace(monotonic=self.monotonic, sleep=self.advance)
        )
        monkeypatch.setattr("fanout.sender.engine.monotonic", self.monotonic)
        monkeypatch.setattr("fanout.sender.aio.monotonic", self.monotonic)
        monkeypatch.setattr(asyncio, "sleep", self.advance_and_give_a_turn)
