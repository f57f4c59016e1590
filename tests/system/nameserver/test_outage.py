"""The nameserver is silent for a minute while a sender is busy: no message is lost, and what is known is told."""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from fanout.sender import Sender
from tests.support.knot import NAMESPACE, Knot, a_records

pytestmark = pytest.mark.nameserver

NAME = f"headless-udp.{NAMESPACE}"
HOSTS = [f"127.0.3.{number}" for number in range(1, 22)]
BEFORE, AFTER = HOSTS[:20], HOSTS[1:]
OUTAGE = 60.0
RATE = 200


class Receivers:
    """The process of `tally`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    def counts(self) -> dict[str, tuple[int, int]]:
        """End the receivers; return how many datagrams, and how many different ones, each has got."""
        out, _ = self._process.communicate(timeout=30)
        return {host: (count, different) for host, (count, different) in json.loads(out).items()}


@contextmanager
def receiving() -> Iterator[Receivers]:
    command = [sys.executable, str(Path(__file__).with_name("tally.py")), *HOSTS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Receivers(process)
        finally:
            if process.poll() is None:
                process.kill()


class Sent(NamedTuple):
    """One message: when, how long `send` took (seconds), and what its report said."""

    at: float
    took: float
    age: float
    stale: bool
    hosts: frozenset[str]


class Load:
    """Sends numbered messages, about `RATE` a second."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self.attempted: Counter[str] = Counter()
        self._number = 0

    def run(self, seconds: float, until: Callable[[Sent], bool] = lambda sent: False) -> list[Sent]:
        """Send for `seconds`, or until a message is as wanted."""
        started = due = time.monotonic()
        sent: list[Sent] = []
        while time.monotonic() < started + seconds:
            sent.append(self._send())
            if until(sent[-1]):
                break
            due = max(due + 1 / RATE, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))
        return sent

    def _send(self) -> Sent:
        self._number += 1
        at = time.monotonic()
        report = self._sender.send(b"message %d" % self._number)
        took = time.monotonic() - at
        assert report.complete, report
        hosts = frozenset(endpoint.host for endpoint in report.endpoints)
        self.attempted.update(hosts)
        return Sent(at, took, report.age, report.stale, hosts)


def p99(sent: list[Sent]) -> float:
    return statistics.quantiles([message.took for message in sent], n=100)[98]


def test_a_minute_without_a_nameserver(
    start_knot: Callable[..., Knot], caplog: pytest.LogCaptureFixture, figures: Callable[[str], None]
) -> None:
    caplog.set_level(logging.INFO, "fanout")
    knot = start_knot({NAME: a_records(BEFORE)})
    with (
        receiving() as receivers,
        Sender(NAME, receivers.port, nameserver=knot.nameserver, allow_loopback=True) as sender,
    ):
        load = Load(sender)
        calm = load.run(5)
        with knot.stopped():
            outage = load.run(0.5)
            # A stopped knotd follows the change of its zone once it goes on.
            knot.rewrite({NAME: a_records(AFTER)})
            outage += load.run(OUTAGE - 0.5)
        after = load.run(15, until=lambda message: message.hosts == set(AFTER) and not message.stale)
        counts = receivers.counts()
    messages = [*calm, *outage, *after]
    failing = [message for message in outage if message.stale]
    figures(
        f"outage of {OUTAGE:.0f} s: {len(outage):,} messages to {len(BEFORE)} pods, p99 of send "
        f"{p99(calm) * 1e6:.0f} µs before and {p99(outage) * 1e6:.0f} µs during it; of {load.attempted.total():,} "
        f"copies {load.attempted.total() - sum(got for got, _ in counts.values())} lost; stale after "
        f"{failing[0].at - outage[0].at:.1f} s, age at most {max(message.age for message in outage):.1f} s, "
        f"the change followed {after[-1].at - after[0].at:.1f} s after it"
    )

    assert counts == {host: (load.attempted[host], load.attempted[host]) for host in HOSTS}, "nothing lost, or twice"
    assert len(outage) > OUTAGE * RATE / 2
    assert {message.hosts for message in calm + outage} == {frozenset(BEFORE)}
    assert {message.hosts for message in messages} <= {frozenset(hosts) for hosts in (BEFORE, AFTER, HOSTS)}

    assert not any(message.stale for message in calm)
    # The TTL of 5 s with its jitter, then the lifetime of the question.
    assert failing[0].at - outage[0].at < 5.5 + 2.5 + 2
    assert failing == outage[outage.index(failing[0]) :], "once stale, stale to the end"
    ages = [message.age for message in failing]
    assert all(older > younger for younger, older in pairwise(ages))
    assert OUTAGE - 6 < ages[-1] < OUTAGE + 10

    assert (after[-1].hosts, after[-1].stale) == (frozenset(AFTER), False)
    events = Counter(record.getMessage().partition(" of ")[0] for record in caplog.records)
    assert {event: count for event, count in events.items() if event.startswith("pod_")} == {
        **{f"pod_joined: {host}:{receivers.port}": 1 for host in HOSTS},
        f"pod_left: {HOSTS[0]}:{receivers.port}": 1,
    }
    names = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert (names.count("resolver_failed"), names.count("resolver_recovered")) == (1, 1)
