"""Which sources are refused, and at what rate; all of it bounded, whoever sends."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from fanout import acl
from fanout.acl import Acl, SourceRefusal, parse_network


def test_only_allowed_sources_pass() -> None:
    guarded = Acl([parse_network("10.1.0.0/16"), parse_network("fd00::/8")], None)
    for host in ("10.1.2.3", "fd00::7"):
        assert guarded.refusal(host, 0.0) is None
    for host in ("10.2.0.1", "2001:db8::1", "fe80::1%eth0"):
        assert guarded.refusal(host, 0.0) is SourceRefusal.SOURCE_NOT_ALLOWED


@given(st.ip_addresses(), st.ip_addresses(v=4), st.integers(0, 32))
def test_a_network_allows_what_lies_in_it(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, base: ipaddress.IPv4Address, length: int
) -> None:
    network = ipaddress.ip_network((base, length), strict=False)
    refusal = Acl([network], None).refusal(str(address), 0.0)
    assert (refusal is None) is (address in network)


@given(st.floats(1, 10_000), st.lists(st.floats(0, 0.5), min_size=1, max_size=300))
def test_no_source_gets_more_than_its_limit(limit: float, pauses: list[float]) -> None:
    guarded = Acl([], limit)
    now = passed = 0.0
    for pause in pauses:
        now += pause
        passed += guarded.refusal("10.0.0.1", now) is None
    assert passed <= max(1.0, limit * 0.1) + now * limit + 1e-6


def test_who_keeps_the_limit_loses_nothing_and_others_have_their_own() -> None:
    guarded = Acl([], 100)
    for tick in range(1000):
        assert guarded.refusal("10.0.0.1", tick * 0.01 + 0.0001) is None
        assert guarded.refusal("10.0.0.2", tick * 0.01 + 0.0001) is None
    assert [guarded.refusal("10.0.0.1", 10.0) for _ in range(12)].count(SourceRefusal.OVER_LIMIT) in (2, 3)
    assert guarded.refusal("10.0.0.2", 10.0) is None


def test_forged_sources_take_no_more_memory_than_that() -> None:
    guarded = Acl([], 1)
    for number in range(3 * acl.SOURCES_MAX):
        assert guarded.refusal(str(ipaddress.IPv4Address(number)), 0.0) is None
    assert len(guarded._sources) == acl.SOURCES_MAX
