"""A literal list of endpoints in the place of DNS."""

from __future__ import annotations

from fanout.discovery.core.endpoints import EndpointSet
from fanout.discovery.refresher import StaticResolver
from fanout.model import Endpoint


def test_it_answers_the_same_for_ever_and_need_not_be_asked_again() -> None:
    endpoints = (Endpoint("10.0.0.8", 2), Endpoint("10.0.0.7", 1))
    resolver = StaticResolver(endpoints)
    assert resolver.resolve() is resolver.resolve()
    assert (resolver.resolve().endpoints, resolver.resolve().dns_ttl) == (endpoints, None)
    pods = EndpointSet()
    pods.answered(resolver.resolve(), 0.0)
    assert pods.next_wakeup is None
    assert set(pods.known.endpoints) == set(endpoints)
