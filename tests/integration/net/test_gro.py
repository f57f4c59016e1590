"""Runs as the kernel merged them (GRO)."""

from __future__ import annotations

from fanout.net import gro
from tests.support.datagrams import gso_sender, send_run
from tests.support.inbox import backlog_of, inbox_of


def test_runs_are_taken_with_one_call_each() -> None:
    """The point of it all: where the kernel merges, a call gives many messages."""
    with inbox_of(backlog_of()) as listener, gso_sender(listener.address) as sender:
        listener.fill()
        send_run(sender, bytes(6400), 100)
        runs = gro.receive(listener.readable, 1000, 10, 0.0)
    assert [(len(run.data), run.segment, run.messages) for run in runs] == [(6400, 100, 64)]
