"""A listening socket whose queue a test holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import fanout
from fanout.model import Message
from fanout.net.bind import RECEIVE_BUFFER
from fanout.receiver.engine import CAPACITY
from fanout.receiver.listener import Listener
from fanout.receiver.queue import MessageQueue


def backlog_of(capacity: int = CAPACITY, overflow: fanout.Overflow = fanout.Overflow.WAIT) -> MessageQueue:
    return MessageQueue(capacity, overflow)


@contextmanager
def inbox_of(
    queue: MessageQueue, *, workers: int = 1, receive_buffer: int = RECEIVE_BUFFER, host: str | None = "127.0.0.1"
) -> Iterator[Listener]:
    listener = Listener(host, 0, queue, receive_buffer=receive_buffer, workers=workers)
    try:
        yield listener
    finally:
        listener.close()


def drain(listener: Listener, queue: MessageQueue, limit: int) -> list[Message]:
    """Take all that is there, by batches of at most `limit`."""
    got: list[Message] = []
    listener.fill()
    while batch := queue.take(limit):
        assert len(batch) <= limit
        got += batch
        listener.fill()
    return got
