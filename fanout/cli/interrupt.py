"""Ctrl-C and SIGTERM end what a command does, not the command: it still reports."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop`, in the main thread, for each SIGINT and SIGTERM that comes meanwhile."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    previous = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def hold_signals() -> None:
    """Block SIGINT and SIGTERM until a program takes them.

    The kernel drops a signal to PID 1 that has no handler yet, but keeps a blocked one.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


class Interruption:
    """An interrupt that a command waits for: `came` and `stopped` are set, and what may be cut ends at once."""

    def __init__(self) -> None:
        self.came: bool = False
        self.stopped: threading.Event = threading.Event()
        self._may_be_cut = False

    def set(self) -> None:
        """Interrupt what goes on."""
        self.came = True
        self.stopped.set()
        if self._may_be_cut:
            raise KeyboardInterrupt

    @contextmanager
    def may_be_cut(self) -> Iterator[None]:
        """Let an interrupt end the block at once."""
        try:
            self._may_be_cut = True
            yield
        except KeyboardInterrupt:
            if not self.came:
                raise
        finally:
            self._may_be_cut = False
