"""Probes to pods that answer, refuse, lie or are silent, and the ways to them."""

from __future__ import annotations

import errno

import pytest

from fanout.doctor.core.facts import PodFacts
from fanout.doctor.reachability import reach, ways
from fanout.model import Endpoint, parse_literals
from fanout.net import interfaces
from tests.support.listening_doctor import FOR_LONG, patience
from tests.support.probed import Answer, garbage, honest, peer, wrong_run


def test_who_answers_and_who_refuses(closed_port: int) -> None:
    with peer(honest) as answering:
        endpoints = parse_literals(f"{answering},127.0.0.1:{closed_port}", 0) or ()
        well, refused = reach(endpoints, (FOR_LONG,))
    assert (well.endpoint, well.probes, well.errno) == (endpoints[0], 1, 0)
    assert well.round_trip is not None
    assert (refused.endpoint, refused.errno, refused.round_trip) == (endpoints[1], errno.ECONNREFUSED, None)


@pytest.mark.parametrize("lie", [wrong_run, garbage])
def test_what_is_no_answer_is_silence(lie: Answer) -> None:
    with peer(lie) as lying:
        (silent,) = reach(parse_literals(lying, 0) or (), (0.01, 0.01))
    assert (silent.probes, silent.errno, silent.round_trip) == (2, 0, None)


def test_the_way_takes_what_its_mtu_says() -> None:
    with peer(honest) as answering, patience():
        (endpoint,) = parse_literals(answering, 0) or ()
        (way,) = ways([PodFacts(endpoint, 1, 0.001)])
    assert way.interface == "lo"
    assert way.payload == min(65_507, way.mtu - 28)
    assert way.passed is True
    (untried,) = ways([PodFacts(endpoint, 1)])
    assert untried.passed is None


def test_interfaces_are_not_looked_at_again_for_each_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def route(host: str) -> tuple[str, str]:
        asked.append(host)
        return "eth0", host

    monkeypatch.setattr(interfaces, "route", route)
    found = ways([PodFacts(Endpoint(f"127.0.0.{number}", 9)) for number in range(1, 100)])
    assert [way.interface for way in found] == ["eth0"] * 99
    assert len(asked) == 1, "all by one address of this host"
