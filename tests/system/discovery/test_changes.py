"""A zone that changes: pods join with the next answer, leave with the second without them, each logged once."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fanout.discovery.core.answer import DnsAnswer
from fanout.discovery.dns import DnsResolver
from fanout.errors import NoEndpoints
from fanout.model import Service
from fanout.sender.sync import Sender
from tests.support.cli import running, strict_json
from tests.support.knot import NAMESPACE, Knot, a_records, addresses
from tests.support.limits import PATIENT, SOON, variables
from tests.support.waiting import until

pytestmark = pytest.mark.nameserver

NAME = f"headless-udp.{NAMESPACE}"
PODS = addresses(4)

Hosts = frozenset[str]


class Witness:
    """Keeps each answer, and the pods that the sender knew before the question for it."""

    def __init__(self, resolver: DnsResolver) -> None:
        self._resolver = resolver
        self._before: list[Hosts] = []
        self._answers: list[Hosts] = []
        self.known: Callable[[], Hosts] = frozenset

    def resolve(self) -> DnsAnswer:
        self._before.append(self.known())
        answer = self._resolver.resolve()
        self._answers.append(frozenset(endpoint.host for endpoint in answer.endpoints))
        return answer

    def history(self) -> list[tuple[Hosts, Hosts]]:
        """Return each answer and what was known after it, but for those of which that is not yet so."""
        return list(zip(self._answers, self._before[1:], strict=False))


def test_changes_are_followed(
    start_knot: Callable[..., Knot], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "fanout")
    knot = start_knot({NAME: a_records(PODS[:2], dns_ttl=0)})
    witness = Witness(DnsResolver(Service(NAME), nameserver=knot.nameserver))
    watching = ("resolve", "-s", NAME, "--nameserver", knot.nameserver, "--watch", "-o", "json")
    limits = variables({**PATIENT, **SOON})
    sender = Sender(NAME, resolver=witness)
    witness.known = lambda: frozenset(endpoint.host for endpoint in sender.endpoints)
    with sender, running(tmp_path, *watching, stdin=None, **limits) as watch:
        changes: list[tuple[str, str]] = []
        shown: list[tuple[str, str | None]] = []

        def become(*hosts: str) -> None:
            """Change the zone, and wait until the sender knows that, and the watch has printed it."""
            before = witness.known()
            knot.publish({NAME: a_records(hosts, dns_ttl=0)})
            follow(before, frozenset(hosts))

        def follow(before: Hosts, after: Hosts) -> None:
            until(lambda: witness.known() == after, f"{sorted(after)} known")
            new = [("joined", f"{host}:12000") for host in sorted(after - before)]
            new += [("left", f"{host}:12000") for host in sorted(before - after)]
            changes.extend(new)
            shown.extend(new)
            if not after:
                shown.append(("no_endpoints", None))
            watch.wait_until(lambda: watch.out.count("\n") >= len(shown))

        follow(frozenset(), frozenset(PODS[:2]))
        become(*PODS[:3])
        become(PODS[1], PODS[2], PODS[3])
        become()
        with pytest.raises(NoEndpoints):
            sender.send(b"nobody")
        become(PODS[0])
        # Two more answers change nothing, and make the history whole.
        seen = len(witness.history())
        until(lambda: len(witness.history()) >= seen + 2, "two more answers")
        run = watch.stop(signal.SIGTERM)
        history = witness.history()

    assert_followed(history)
    events = [record.getMessage() for record in caplog.records]
    assert events == [f"pod_{change}: {endpoint} of {NAME}" for change, endpoint in changes]
    printed = [strict_json(line) for line in run.out.splitlines()]
    assert [(line["change"], line.get("endpoint")) for line in printed] == shown
    assert (run.code, run.err) == (0, "")


def assert_followed(history: list[tuple[Hosts, Hosts]]) -> None:
    """Every pod of an answer is known after it; one that is missing is known until the second answer without it."""
    answers_before: list[Hosts] = []
    known: Hosts = frozenset()
    confirmations = 0
    for answer, known_after in history:
        assert answer <= known_after, "joined at once"
        for host in known - answer:
            is_second = bool(answers_before) and host not in answers_before[-1]
            assert (host in known_after) is not is_second, "left with the second answer, not earlier and not later"
            confirmations += is_second
        answers_before.append(answer)
        known = known_after
    # Pod 0 by itself, then the three that were left with NXDOMAIN.
    assert confirmations == 1 + 3
    empty = [known_after for answer, known_after in history if not answer]
    assert empty[:2] == [frozenset(PODS[1:4]), frozenset()], "NXDOMAIN is believed after one confirmation"
