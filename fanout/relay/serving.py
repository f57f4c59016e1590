"""The thread that serves a relay: there is one, it can be waited for, and it reports its last turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from fanout.errors import InvalidInput


class ServingThread:
    """Entered by the thread that serves; a second one is refused with `InvalidInput`."""

    def __init__(self) -> None:
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._thread: int | None = None
        self._turn_began_at = 0.0
        self.wake: Callable[[], object] = lambda: None
        """Lets its loop begin the next turn now; set by that loop."""

    @property
    def silence(self) -> float:
        """Seconds since the last turn of its loop; 0 before it began."""
        return monotonic() - self._turn_began_at if self._turn_began_at else 0.0

    def begin_turn(self) -> float:
        """Record that a turn of the loop begins now; return the time."""
        self._turn_began_at = monotonic()
        return self._turn_began_at

    def wait(self) -> None:
        """Wait until it has ended, unless this is that thread."""
        if self._thread != threading.get_ident():
            self._is_idle.wait()

    def __enter__(self) -> None:
        if not self._is_idle.is_set():
            raise InvalidInput("the relay is already served by another thread: call serve once")
        self._is_idle.clear()
        self._thread = threading.get_ident()

    def __exit__(self, *exception: object) -> None:
        self._thread = None
        self._is_idle.set()
