"""A listening socket: what the kernel dropped is counted, and what cannot be opened leaves nothing open."""

from __future__ import annotations

import sys

import pytest

import fanout
from fanout.net import bind, gro
from tests.support.datagrams import gso_sender, send_run
from tests.support.inbox import backlog_of, drain, inbox_of
from tests.support.open_files import open_files


def test_a_system_that_does_not_merge_receives_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind, "UDP_GRO", 9999)
    queue = backlog_of()
    with inbox_of(queue) as listener, gso_sender(listener.address) as sender:
        send_run(sender, bytes(1000), 100)
        listener.fill()
        assert [message.payload for message in queue.take(100)] == [bytes(100)] * 10
    monkeypatch.setattr(sys, "platform", "darwin")
    with inbox_of(backlog_of()) as listener:
        assert listener.kernel_drops == 0


def test_the_kernel_counts_each_datagram_while_nobody_takes() -> None:
    """Before the first look and while the queue is full, nothing is merged: a merged run would count as one drop."""
    queue = backlog_of(capacity=100)
    with inbox_of(queue, receive_buffer=100_000) as listener, gso_sender(listener.address) as sender:
        for _ in range(50):
            send_run(sender, bytes(6400), 100)
        listener.fill()
        assert queue.is_full
        before = queue.datagrams
        for _ in range(50):
            send_run(sender, bytes(6400), 100)
            listener.fill()
        assert queue.datagrams == before, "it takes nothing while it is full"
        listener.close()
        assert listener.kernel_drops > 5000
        assert queue.datagrams + listener.kernel_drops == 2 * 50 * 64
        assert len(queue.take(10_000)) == queue.datagrams


def test_the_kernel_counts_each_datagram_until_its_buffer_was_found_empty() -> None:
    """Room in the queue is no reason to merge: the kernel's buffer may be full all the same."""
    queue = backlog_of(capacity=1000)
    sent = 0
    with inbox_of(queue, receive_buffer=1_000_000) as listener, gso_sender(listener.address) as sender:

        def flood(runs: int) -> None:
            nonlocal sent
            for _ in range(runs):
                send_run(sender, bytes(6400), 100)
                sent += 64

        flood(50)
        while not queue.is_full:
            before = queue.datagrams
            listener.fill()
            if queue.datagrams == before:  # a small buffer holds less than the queue
                flood(1)
        for _ in range(20):
            while queue.is_full:
                queue.take(300)
            listener.fill()
            flood(50)
        assert listener.kernel_drops > 10_000
        drain(listener, queue, 1000)
        assert queue.datagrams + listener.kernel_drops == sent
        before = listener.kernel_drops
        flood(1)
        assert [run.messages for run in gro.receive(listener.readable, 1000, 10, 0.0)] == [64], "it merges again"
        assert listener.kernel_drops == before


def test_a_merged_run_that_is_dropped_counts_as_one_at_least() -> None:
    """The limit that the documentation names: true of a kernel that merges, with a receiver that does not look."""
    queue = backlog_of()
    with inbox_of(queue, receive_buffer=20_000) as listener, gso_sender(listener.address) as sender:
        listener.fill()
        for _ in range(50):
            send_run(sender, bytes(6400), 100)
        listener.close()
        taken = queue.depth
        assert 0 < listener.kernel_drops <= 50 * 64 - taken


def test_a_log_that_fails_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise fanout.FanoutError("the log is full")

    monkeypatch.setattr(bind.log, "warning", fail)
    before = open_files()
    with pytest.raises(fanout.FanoutError, match="the log is full"):
        fanout.Receiver(0, receive_buffer=1 << 30).open()
    assert open_files() == before
