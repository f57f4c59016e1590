"""The queries that a receiver answers by itself: `ping` and `info`."""

from __future__ import annotations

import dataclasses
import json
import time

import fanout
from fanout.daemon.common.logs import identity
from fanout.receiver.core.stats import ReceiverStats

PING, PONG = b"ping", b"pong"
INFO = b"info"


class BuiltinQueries:
    """Answers from this receiver's identity, uptime and counters."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def answer(self, question: bytes, stats: ReceiverStats) -> bytes | None:
        """Return the reply; None for any other query."""
        if question == PING:
            return PONG
        return self._info(stats) if question == INFO else None

    def _info(self, stats: ReceiverStats) -> bytes:
        # No white space: without a seal a reply must not be larger than a question, some 1,200 bytes.
        return json.dumps(
            {
                "version": fanout.__version__,
                **identity(),
                "uptime": round(time.monotonic() - self._started, 3),
                "counters": counters(stats),
            },
            separators=(",", ":"),
        ).encode()


def counters(stats: ReceiverStats) -> dict[str, object]:
    """Return all that a receiver counts, as JSON has it."""
    return {
        **dataclasses.asdict(stats),
        "lost": stats.lost,
        "refused": {reason.value: count for reason, count in stats.refused.items()},
    }
