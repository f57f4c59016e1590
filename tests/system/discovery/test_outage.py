"""The nameserver is silent while a sender is busy: no message is lost, and what is known is told.

What that costs a sender in time is measured by `benchmarks/outage.py`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise

import pytest

from fanout.model import Service
from fanout.report import Report
from fanout.sender.sync import Sender
from tests.support.knot import NAMESPACE, Knot, a_records
from tests.support.pods import Pod
from tests.support.waiting import until
from tests.system.discovery.asking import HASTY, PATIENT, Asker, sending

pytestmark = pytest.mark.nameserver

NAME = f"headless-udp.{NAMESPACE}"
HOSTS = [f"127.0.3.{number}" for number in range(1, 6)]
BEFORE, AFTER = frozenset(HOSTS[:4]), frozenset(HOSTS[1:])
FAILURES = 5


class Load:
    """Sends numbered messages, of which each pod gets the next one, and keeps what was said of each."""

    def __init__(self, sender: Sender, pods: list[Pod]) -> None:
        self._sender = sender
        self._pods = {pod.endpoint: pod for pod in pods}
        self.reports: list[Report] = []

    def send(self) -> Report:
        payload = b"message %d" % len(self.reports)
        report = self._sender.send(payload)
        assert report.complete, report
        self.reports.append(report)
        for endpoint in report.endpoints:
            assert self._pods[endpoint].receive() == payload
        return report


def hosts_of(report: Report) -> frozenset[str]:
    return frozenset(endpoint.host for endpoint in report.endpoints)


def test_a_nameserver_that_is_silent(
    start_knot: Callable[..., Knot], pods: Callable[..., list[Pod]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fanout")
    knot = start_knot({NAME: a_records(sorted(BEFORE), dns_ttl=0)})
    receivers = pods(hosts=HOSTS)
    service = Service(NAME, receivers[0].endpoint.port)
    asker = Asker(service, nameserver=knot.nameserver, allow_loopback=True)
    with ExitStack() as outage, sending(service, asker) as sender:
        load = Load(sender, receivers)
        for _ in range(10):
            assert not load.send().stale
        with asker.changing(lifetime=HASTY):
            outage.enter_context(knot.stopped())
            began = len(load.reports)
        load.send()
        # A stopped knotd follows the change of its zone once it goes on.
        knot.rewrite({NAME: a_records(sorted(AFTER), dns_ttl=0)})
        until(lambda: load.send().stale, "the failure is known")
        failing = len(load.reports) - 1
        until(lambda: load.send() and sender.stats.resolver_failures >= FAILURES, "questions fail")
        recovering = len(load.reports)
        with asker.changing(lifetime=PATIENT):
            outage.close()
        until(lambda: hosts_of(report := load.send()) == AFTER and not report.stale, "the change is followed")

    assert {hosts_of(report) for report in load.reports[:recovering]} == {BEFORE}
    assert {hosts_of(report) for report in load.reports} <= {BEFORE, AFTER, frozenset(HOSTS)}
    assert not any(report.stale for report in load.reports[:began])
    stale = load.reports[failing:recovering]
    assert all(report.stale for report in stale), "once stale, stale to the end"
    assert all(older.age > younger.age for younger, older in pairwise(stale))
    assert stale[-1].age > FAILURES * HASTY, "as old as the last answer, whatever has failed since"

    assert not any(pod.waiting() for pod in receivers), "nothing comes twice"
    events = Counter(record.getMessage().partition(" of ")[0] for record in caplog.records)
    assert {event: count for event, count in events.items() if event.startswith("pod_")} == {
        **{f"pod_joined: {host}:{service.port}": 1 for host in HOSTS},
        f"pod_left: {HOSTS[0]}:{service.port}": 1,
    }
    names = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert (names.count("resolver_failed"), names.count("resolver_recovered")) == (1, 1)
