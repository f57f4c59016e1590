"""The receiver's log of messages: a line each, at most N a second; the others are counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from structlog.typing import FilteringBoundLogger

from fanout.daemon.common import events
from fanout.daemon.core import log_fields
from fanout.limiter import LineLimiter
from fanout.model import Message

LINES_A_TURN = 32
"""Of the event loop: some milliseconds."""


class MessageLog:
    """Writes at most `rate` lines a second, with at most `payload_limit` bytes of each payload.

    `failed` is called for a message that cannot be logged.
    """

    def __init__(
        self,
        log: FilteringBoundLogger,
        failed: Callable[[Message, Exception], object],
        *,
        rate: float,
        payload_limit: int,
    ) -> None:
        self.suppressed: int = 0
        """Messages left out, of those that `log_suppressed` has reported."""
        self._log = log
        self._failed = failed
        self._payload_limit = payload_limit
        self._limiter = LineLimiter(rate)
        self._unasked = 0
        """Messages since the last `log_suppressed` for which the limiter need not be called."""

    def write(self, message: Message, outcome: dict[str, Any]) -> None:
        """Log a message, unless the rate is exceeded."""
        if self._limiter.allow(time.monotonic()):
            self._write(message, outcome)

    async def write_batch(self, batch: list[Message]) -> None:
        """Log messages within the rate; other tasks of the event loop run in between."""
        now = time.monotonic()
        for index, message in enumerate(batch):
            if not self._limiter.allow(now):
                # Nor are the others, at the same time: under a flood a message must not cost more than its count.
                self._unasked += len(batch) - index - 1
                return
            self._write(message, {})
            if index % LINES_A_TURN == LINES_A_TURN - 1:
                await asyncio.sleep(0)

    def log_suppressed(self) -> None:
        """Log how many lines were left out since the last time."""
        suppressed = self._limiter.take_suppressed() + self._unasked
        self._unasked = 0
        if suppressed:
            self.suppressed += suppressed
            self._log.warning(events.MESSAGES_SUPPRESSED, count=suppressed)

    def _write(self, message: Message, outcome: dict[str, Any]) -> None:
        try:
            fields = log_fields.message_fields(message, self._payload_limit)
            self._log.info(events.MESSAGE_RECEIVED, **fields, **outcome)
        except Exception as error:
            self._failed(message, error)  # one message must not stop the receiver
