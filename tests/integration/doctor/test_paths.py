"""Probes to pods on loopback: which answer, and what the paths to them carry."""

from __future__ import annotations

import errno

import pytest

from fanout.doctor import paths
from fanout.doctor.core.facts import PodFacts
from fanout.model import MAX_PAYLOAD, Endpoint
from fanout.net import interfaces
from tests.support.doctor_timing import patience
from tests.support.probe_peers import endpoint_of, honest, peer, wrong_run


def test_who_answers_and_who_refuses(refusing_port: int) -> None:
    refusing = Endpoint("127.0.0.1", refusing_port)
    with peer(honest) as answers, patience():
        answered, refused = paths.reach([endpoint_of(answers), refusing])
    assert (answered.endpoint, answered.probes, answered.errno) == (endpoint_of(answers), 1, 0)
    assert answered.round_trip is not None
    assert refused == PodFacts(refusing, 1, None, errno.ECONNREFUSED)


def test_an_answer_to_another_run_is_no_answer() -> None:
    with peer(wrong_run) as lies, patience(small=(0.01, 0.01)):
        assert paths.reach([endpoint_of(lies)]) == [PodFacts(endpoint_of(lies), 2)]


def test_a_path_is_tried_with_the_largest_datagram_where_the_pod_answers() -> None:
    with peer(honest) as answers, patience():
        pods = [PodFacts(endpoint_of(answers), 1, 0.001), PodFacts(Endpoint("127.0.0.33", 9), 6)]
        tried, untried = paths.measure(pods)
    assert (tried.endpoint, tried.passed) == (endpoint_of(answers), True)
    assert tried.payload == min(MAX_PAYLOAD, tried.mtu - 28)
    assert untried == tried._replace(endpoint=Endpoint("127.0.0.33", 9), interface=untried.interface, passed=None)


def test_a_pod_that_no_socket_connects_to_has_no_path() -> None:
    assert paths.measure([PodFacts(Endpoint("255.255.255.255", 9), 6)]) == []


def test_interfaces_are_not_looked_at_again_for_each_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def route(host: str) -> tuple[str, str]:
        asked.append(host)
        return "eth0", host

    monkeypatch.setattr(interfaces, "route", route)
    found = paths.measure([PodFacts(Endpoint(f"127.0.0.{number}", 9)) for number in range(1, 100)])
    assert [path.interface for path in found] == ["eth0"] * 99
    assert len(asked) == 1, "all by one address of this host"
