"""A line a message, and so many a second at most; those that are left out are counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fanout.daemon.receiver import message_log
from fanout.daemon.receiver.message_log import MessageLog
from fanout.model import Endpoint, Message

SOURCE = Endpoint("10.0.0.7", 40_000)


class Lines:
    """A log that keeps its lines, or fails."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.failure: Exception | None = None

    def info(self, event: str, **fields: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.lines.append((event, fields))

    warning = info


class Logging:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
        self.now = 100.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("fanout.daemon.receiver.message_log.time", clock)
        self.out = Lines()
        self.failed: list[tuple[Message, Exception]] = []
        log: Any = self.out
        self.log = MessageLog(log, lambda *what: self.failed.append(what), rate=rate, payload_limit=3)

    def batch(self, count: int) -> int:
        """Write a batch; return how often the event loop had a turn."""
        writing = self.log.write_batch([Message(b"%05d" % number, SOURCE, 0.0) for number in range(count)])
        turns = 0
        try:
            while True:
                writing.send(None)
                turns += 1
        except StopIteration:
            return turns


def test_a_line_has_the_message_and_what_became_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    logging = Logging(monkeypatch, 10.0)
    logging.log.write(Message(b"reload", SOURCE, 0.0), {"status": "failed"})
    assert logging.out.lines == [
        ("message_received",
         {"source": "10.0.0.7:40000", "size": 6, "payload": "rel", "payload_cut": True, "status": "failed"}),
    ]  # fmt: skip


def test_what_is_over_the_rate_is_counted_one_by_one_and_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    logging = Logging(monkeypatch, 5.0)
    logging.log.log_suppressed()
    assert logging.out.lines == [], "nothing was left out"
    logging.batch(7)
    for _ in range(3):
        logging.log.write(Message(b"x", SOURCE, 0.0), {})
    assert len(logging.out.lines) == 5
    logging.log.log_suppressed()
    logging.log.log_suppressed()
    assert logging.out.lines[5:] == [("messages_suppressed", {"count": 5})]
    assert logging.log.suppressed == 5
    logging.now += 1.0
    logging.batch(1)
    assert logging.out.lines[-1][0] == "message_received"


def test_the_event_loop_has_its_turns_while_a_large_batch_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    logging = Logging(monkeypatch, 1000.0)
    assert logging.batch(100) == 100 // message_log.LINES_A_TURN
    assert len(logging.out.lines) == 100


def test_a_message_that_cannot_be_logged_is_told_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logging = Logging(monkeypatch, 1000.0)
    logging.out.failure = OSError("no space")
    logging.batch(3)
    assert [(message.payload, str(error)) for message, error in logging.failed] == [
        (b"%05d" % number, "no space") for number in range(3)
    ]
