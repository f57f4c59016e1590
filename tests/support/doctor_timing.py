"""How long a `fanout doctor` listens and asks: until something has happened, not until some time is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from fanout.doctor import capture, kernel, paths

FOR_LONG = 3600.0
"""Seconds for `--wait`; the scripted clocks below jump there."""


class _Clock:
    """Stands still from its first look until something is so, and is at the end of all waiting then."""

    def __init__(self, begin: Callable[[], Callable[[], bool]]) -> None:
        self._begin = begin
        self._is_over: Callable[[], bool] | None = None

    def monotonic(self) -> float:
        if self._is_over is None:
            self._is_over = self._begin()
            return 0.0
        return FOR_LONG if self._is_over() else 0.0


@contextmanager
def until_seen(*ports: int) -> Iterator[None]:
    """Let it listen until it has seen, on the wire, a datagram from each of these ports."""
    seen: set[int] = set()
    parse = capture.parse_packet

    def look(*arguments: Any, **named: Any) -> Any:
        found = parse(*arguments, **named)
        if found is not None:
            seen.add(found.source.port)
        return found

    clock = _Clock(lambda: lambda: seen.issuperset(ports))
    with mock.patch.object(capture, "parse_packet", look), mock.patch.object(capture, "time", clock):
        yield


@contextmanager
def until_counted(name: str) -> Iterator[None]:
    """Let it listen until the kernel has counted one more of that name."""

    def count() -> int:
        return kernel.counters().get(name, 0)

    def begin() -> Callable[[], bool]:
        before = count()
        return lambda: count() > before

    with mock.patch.object(capture, "time", _Clock(begin)):
        yield


@contextmanager
def patience(small: Sequence[float] = (FOR_LONG,), large: Sequence[float] = (FOR_LONG,)) -> Iterator[None]:
    """Let it wait so long for answers to each of its probes, and of its large ones: they end it earlier."""
    with (
        mock.patch.object(paths.reach, "__defaults__", (small,)),
        mock.patch.object(paths, "_PATIENCE_OF_LARGE", large),
    ):
        yield
