"""Collects a stream's messages: what is put within a millisecond leaves together, at the requested pace."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Self

from fanout.protocol.sending.pacer import Pacer

BATCH = 256
"""Maximum of messages that leave together: four GSO runs."""
DELAY = 0.001
"""Maximum seconds that a message waits for others; one that comes that long after the last flush does not wait."""
_LONG_WAIT = 0.01
_LONGEST_WAIT = 3600.0


class Coalescer:
    """Passes payloads to `flush`, many at a time where they come fast; `put` blocks to keep the pace.

    A producer that pauses must not hold back what it put before: a thread flushes it, started with the first message
    that has to wait, unless the producer `never_pauses`. What `flush` raises is raised by the next `put`, or at the
    end of the `with` block. Once `stop` is set, `put` returns False and does not take the payload.
    """

    def __init__(
        self,
        flush: Callable[[list[bytes]], None],
        *,
        pacer: Pacer | None = None,
        stop: threading.Event | None = None,
        never_pauses: bool = False,
    ) -> None:
        self._flush = flush
        self._pacer = pacer
        self._stop = stop
        self._queue: deque[bytes] = deque()
        self._flush_by = 0.0
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._has_queued = threading.Event()
        self._ended = threading.Event()
        self._guard: threading.Thread | None = None
        self._needs_guard = not never_pauses

    def put(self, payload: bytes) -> bool:
        """Take one payload; return whether it was taken."""
        now = time.monotonic()
        if self._pacer is not None:
            size = len(payload)
            while not self._pacer.admit(now, size):
                self._send()
                self._wait(self._pacer.wait(now, size))
                now = time.monotonic()
                if self._stop is not None and self._stop.is_set():
                    break
        if self._stop is not None and self._stop.is_set():
            return False
        queue = self._queue
        queue.append(payload)
        if len(queue) >= BATCH or now >= self._flush_by:
            self._send()
        elif self._needs_guard and not self._has_queued.is_set():
            self._has_queued.set()
            if self._guard is None:
                self._guard = threading.Thread(target=self._watch, name="fanout-coalescer", daemon=True)
                self._guard.start()
        return True

    def _wait(self, seconds: float) -> None:
        seconds = min(seconds, _LONGEST_WAIT)
        # An event wakes up later than a sleep, which matters for short waits.
        if self._stop is None or seconds < _LONG_WAIT:
            time.sleep(seconds)
        else:
            self._stop.wait(seconds)

    def _send(self) -> None:
        with self._lock:
            if self._failure is not None:
                raise self._failure
            queue = self._queue
            payloads = [queue.popleft() for _ in range(len(queue))]
            if payloads:
                self._flush(payloads)
            self._flush_by = time.monotonic() + DELAY

    def _watch(self) -> None:
        while not self._ended.is_set():  # checked after each clear(): the end sets both
            self._has_queued.wait()
            if self._ended.wait(DELAY):
                return
            self._has_queued.clear()  # before the queue is checked, which is filled before it is set
            if not self._queue:
                continue
            if time.monotonic() < self._flush_by:
                self._has_queued.set()
                continue
            try:
                self._send()
            except BaseException as error:
                self._failure = error
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._guard is not None:
            self._ended.set()
            self._has_queued.set()
            self._guard.join()
        self._send()
