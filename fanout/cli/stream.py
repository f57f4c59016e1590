"""A stream of messages for `fanout send`: repeated or read by the line, and ended early without loss."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from fanout.cli.message import Limit
from fanout.errors import FanoutError, MessageTooLarge


class LineStream:
    """Lines to be sent, and what ended them.

    `interrupt` sets `stopped` and ends it after the messages that are under way, a line that cannot be sent ends it
    before that line (`failure`): what was sent until then is reported like any other stream.
    """

    def __init__(self, limit: Limit, *, allow_empty: bool = False) -> None:
        self.interrupted = False
        self.failure: FanoutError | None = None
        self.empty_lines = 0
        self.stopped = threading.Event()
        self._limit = limit
        self._allow_empty = allow_empty
        self._may_be_cut = False

    def lines(self, source: BinaryIO) -> Iterator[bytes]:
        """Yield each line without its line feed, as it comes; empty ones are counted and left out."""
        number = 0
        most = self._limit.size
        while not self.stopped.is_set():
            line = b""
            with self.may_be_cut():
                line = source.readline(most + 2)
            if not line:
                return
            number += 1
            payload = line.removesuffix(b"\n")
            if len(payload) > most:
                self.failure = MessageTooLarge(
                    f"line {number} has more than the {most:,} bytes that {self._limit.what}: "
                    "it and what follows was not sent"
                )
                return
            if payload or self._allow_empty:
                yield payload
            else:
                self.empty_lines += 1

    @contextmanager
    def may_be_cut(self) -> Iterator[None]:
        """Let `interrupt` end what is done inside at once."""
        try:
            self._may_be_cut = True
            yield
        except KeyboardInterrupt:
            if not self.interrupted:
                raise
        finally:
            self._may_be_cut = False

    def interrupt(self) -> None:
        """End the stream."""
        self.interrupted = True
        self.stopped.set()
        if self._may_be_cut:
            raise KeyboardInterrupt
