"""Who a relay refuses: sources, rates, loops; all of it bounded, whoever sends."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from fanout import acl
from fanout.acl import Acl, SourceRefusal, parse_network
from fanout.relay.core import loop_guard
from fanout.relay.core.loop_guard import LoopGuard


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


def test_what_comes_back_from_another_is_a_loop_and_a_repeat_is_none() -> None:
    recent = LoopGuard()
    device, other = ("10.0.0.1", 5000), ("10.0.0.9", 40_000)
    assert not recent.is_loop(b"beat", device, 0.0)
    assert recent.is_loop(b"beat", other, 0.1)
    assert not recent.is_loop(b"beat", device, 1.0)
    assert recent.is_loop(b"beat", other, 5.9)
    assert not recent.is_loop(b"other", other, 6.0)
    assert not recent.is_loop(b"beat", other, 1.0 + loop_guard.LOOP_SECONDS + 0.1)


def test_another_program_of_the_same_host_is_another_source() -> None:
    recent = LoopGuard()
    assert not recent.is_loop(b"x", ("10.0.0.1", 5000), 0.0)
    assert recent.is_loop(b"x", ("10.0.0.1", 5001), 0.0)


@given(st.integers(2, 5), st.integers(0, 4), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_a_ring_of_relays_forwards_each_datagram_once(relays: int, entry: int, payloads: list[int]) -> None:
    """Each relay sends to the next; a device sends to one of them, over and over."""
    ring = [LoopGuard() for _ in range(relays)]
    for number, payload in enumerate(payloads):
        at, source, forwarded = entry % relays, "device", [0] * relays
        while not ring[at].is_loop(bytes([payload]), source, number * 0.5):
            forwarded[at] += 1
            assert forwarded[at] == 1, "a storm"
            at, source = (at + 1) % relays, f"relay {at}"
        assert forwarded == [1] * relays


def test_the_memory_of_payloads_is_bounded_by_number_and_by_time() -> None:
    recent = LoopGuard()
    for number in range(loop_guard.LOOP_PAYLOADS + 1000):
        recent.is_loop(number.to_bytes(4, "big"), "a", 0.0)
    assert len(recent._seen) == loop_guard.LOOP_PAYLOADS
    recent.is_loop(b"later", "a", loop_guard.LOOP_SECONDS + 1)
    assert len(recent._seen) == 1
