"""Threads that bring what arrives: they wait while the queue is full, and wake whoever waits for a message."""

from __future__ import annotations

import threading

import pytest

import fanout
from fanout.receiver.queue import MessageQueue
from fanout.receiver.workers import Waker, Workers
from tests.support.datagrams import gso_sender
from tests.support.inbox import inbox_of
from tests.support.waiting import PATIENCE, until


class Watched(MessageQueue):
    """Says when a worker has to wait for room."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity, fanout.Overflow.WAIT, takers=2)
        self.is_waited_for = threading.Event()

    def wait_for_room(self) -> None:
        if self.is_full:
            self.is_waited_for.set()
        super().wait_for_room()


def test_a_full_queue_holds_the_workers_up_until_there_is_room() -> None:
    queue = Watched(10)
    with inbox_of(queue, workers=2) as listener, gso_sender(listener.address) as sender:
        for number in range(100):
            sender.send(b"%d" % number)
        got: list[bytes] = []
        while len(got) < 90:
            assert queue.is_waited_for.wait(PATIENCE)
            queue.is_waited_for.clear()
            assert queue.depth == 10
            got += [message.payload for message in queue.take(5)]
            assert not queue.is_full
        until(lambda: queue.datagrams == 100)
        got += [message.payload for message in queue.take(100)]
    assert got == [b"%d" % number for number in range(100)]


def test_what_arrives_wakes_whoever_waits() -> None:
    arrived = Waker()
    arrived.readable.setblocking(False)
    with pytest.raises(BlockingIOError):
        arrived.readable.recv(1)
    arrived.set()
    arrived.set()
    arrived.clear()
    arrived.clear()
    with pytest.raises(BlockingIOError):
        arrived.readable.recv(1)
    arrived.close()


def test_a_thread_that_the_system_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "fanout-receiver-3":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(fanout.SocketUnavailable, match="thread 3 of workers=4") as caught:
        fanout.Receiver(0, workers=4).open()
    assert "\n" not in str(caught.value)
    assert Workers.__name__ not in str(caught.value)
