"""A stream of messages for `fanout send`: repeated or read by the line, and ended early without loss."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import BinaryIO

from fanout.errors import FanoutError, MessageTooLarge
from fanout.model import MAX_PAYLOAD


class Stream:
    """Lines to be sent, and what ended them.

    `interrupt` sets `stopped` and ends it after the messages that are under way, a line that cannot be sent ends it
    before that line (`failure`): what was sent until then is reported like any other stream.
    """

    def __init__(self, *, allow_empty: bool = False) -> None:
        self.interrupted = False
        self.failure: FanoutError | None = None
        self.empty_lines = 0
        self.stopped = threading.Event()
        self._allow_empty = allow_empty
        self._reading = False

    def lines(self, source: BinaryIO) -> Iterator[bytes]:
        """Yield each line without its line feed, as it comes; empty ones are counted and left out."""
        number = 0
        while not self.stopped.is_set():
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

    def interrupt(self) -> None:
        """End the stream."""
        self.interrupted = True
        self.stopped.set()
        if self._reading:
            raise KeyboardInterrupt
