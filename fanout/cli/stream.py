"""A stream of messages for `fanout send`: repeated or read by the line, paced, and ended early without loss."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import BinaryIO

from fanout.errors import FanoutError, MessageTooLarge
from fanout.model import MAX_PAYLOAD


class Stream:
    """Yields payloads `interval` seconds apart; one that comes late makes up for at most `catch_up` seconds.

    Ctrl-C or SIGTERM ends it after the message that is under way (`interrupted`), a line that cannot be sent
    before that line (`failure`): what was sent until then is reported like any other stream.
    """

    def __init__(self, interval: float = 0.0, *, catch_up: float = 0.0, allow_empty: bool = False) -> None:
        self.interrupted = False
        self.failure: FanoutError | None = None
        self.empty_lines = 0
        self._interval = interval
        self._catch_up = catch_up
        self._allow_empty = allow_empty
        self._stopped = threading.Event()
        self._reading = False

    def repeated(self, payload: bytes, count: int) -> Iterator[bytes]:
        """Yield `payload` so many times."""
        return self._paced(payload for _ in range(count))

    def lines(self, source: BinaryIO) -> Iterator[bytes]:
        """Yield each line without its line feed, as it comes; empty ones are counted and left out."""
        return self._paced(self._read_lines(source))

    def _read_lines(self, source: BinaryIO) -> Iterator[bytes]:
        number = 0
        while not self._stopped.is_set():
            try:
                self._reading = True
                line = source.readline(MAX_PAYLOAD + 2)
            except KeyboardInterrupt:
                return
            finally:
                self._reading = False
            if not line:
                return
            number += 1
            payload = line.removesuffix(b"\n")
            if len(payload) > MAX_PAYLOAD:
                self.failure = MessageTooLarge(
                    f"line {number} has more than the {MAX_PAYLOAD:,} bytes that a UDP datagram carries: "
                    "it and what follows was not sent"
                )
                return
            if payload or self._allow_empty:
                yield payload
            else:
                self.empty_lines += 1

    def _paced(self, payloads: Iterator[bytes]) -> Iterator[bytes]:
        due = time.monotonic()
        for payload in payloads:
            if self._interval:
                now = time.monotonic()
                due = max(due, now - self._catch_up)
                if self._stopped.wait(max(0.0, due - now)):
                    return
                due += self._interval
            elif self._stopped.is_set():
                return
            yield payload

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the stream instead of the program."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            self._stopped.set()
            if self._reading:
                raise KeyboardInterrupt

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
