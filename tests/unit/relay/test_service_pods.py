"""The pods of a Service: followed as answers come, at the port that an ingress sends to."""

from __future__ import annotations

from fanout.discovery.core.endpoints import Known
from fanout.errors import ResolverUnavailable
from fanout.model import Endpoint, Service
from fanout.relay.service_pods import ServicePods
from fanout.testing import ScriptedResolver


def pods_of(service: str) -> ServicePods:
    return ServicePods(Service(service, 5000), ScriptedResolver(ResolverUnavailable("never asked")))


def test_pods_are_those_of_the_last_answer_at_the_port_that_is_asked_for() -> None:
    pods = pods_of("headless-udp")
    assert not pods.follow()
    pods.refresher.known = Known((Endpoint("10.0.0.1", 5000), Endpoint("fd00::1", 5000)))
    assert pods.endpoints(6000) == [], "it has not looked yet"
    assert pods.follow()
    assert pods.endpoints(6000) == [Endpoint("10.0.0.1", 6000), Endpoint("fd00::1", 6000)]


def test_an_answer_with_the_same_pods_changes_nothing() -> None:
    pods = pods_of("headless-udp")
    pods.refresher.known = Known((Endpoint("10.0.0.1", 5000),))
    assert pods.follow()
    assert not pods.follow()
    pods.refresher.known = Known((Endpoint("10.0.0.1", 5000),), answered_at=1.0)
    assert not pods.follow()
    pods.refresher.known = Known()
    assert pods.follow()
    assert pods.endpoints(5000) == []


def test_an_endpoint_that_is_given_with_a_port_keeps_it() -> None:
    pods = pods_of("10.0.0.1:7000,10.0.0.2")
    assert pods.literals(6000) == [Endpoint("10.0.0.1", 7000), Endpoint("10.0.0.2", 6000)]
    pods.refresher.known = Known(pods.service.literals or ())
    pods.follow()
    assert pods.endpoints(6001) == [Endpoint("10.0.0.1", 7000), Endpoint("10.0.0.2", 6001)]


def test_it_is_decided_with_an_answer_that_is_accepted_or_a_failure() -> None:
    pods = pods_of("headless-udp")
    assert not pods.is_decided
    pods.refresher.known = Known(answered_at=1.0)
    assert not pods.is_decided, "a first empty answer is confirmed before"
    pods.refresher.known = Known(failure="no answer")
    assert pods.is_decided
    pods.refresher.known = Known(settled=True)
    assert pods.is_decided
