"""What is believed of an answer of DNS, and what is said of one that has nothing to believe."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.discovery.core.answer import Refusal, accept, why_no_endpoints
from fanout.model import Endpoint

PODS = [Endpoint(f"10.0.0.{number}", 12000) for number in range(1, 3)]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("::ffff:239.1.2.3", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("pod", "not an IP address"),
    ],
)
def test_addresses_that_are_no_pods_are_refused(address: str, reason: str) -> None:
    endpoints, refused = accept([(address, 12000), ("10.0.0.1", 12000)], allow_loopback=False, limit=10)
    assert endpoints == (PODS[0],)
    assert [refusal.reason for refusal in refused] == [reason]


def test_loopback_is_believed_where_it_is_allowed() -> None:
    endpoints, refused = accept([("127.0.0.11", 12000), ("::1", 1), ("224.0.0.1", 1)], allow_loopback=True, limit=10)
    assert [str(endpoint) for endpoint in endpoints] == ["127.0.0.11:12000", "[::1]:1"]
    assert len(refused) == 1


def test_the_limit_and_ports() -> None:
    endpoints, refused = accept(
        [("10.0.0.1", 12000), ("10.0.0.1", 12000), ("10.0.0.2", 0), ("10.0.0.2", 12000), ("10.0.0.3", 12000)],
        allow_loopback=False,
        limit=2,
    )
    assert endpoints == tuple(PODS[:2])
    assert [refusal.reason for refusal in refused] == ["port 0", "over the limit of 2 endpoints"]


@given(st.lists(st.tuples(st.ip_addresses().map(str) | st.text(), st.integers(0, 65_535))), st.booleans())
def test_whatever_is_believed_is_a_unicast_address(candidates: list[tuple[str, int]], allow_loopback: bool) -> None:
    endpoints, refused = accept(candidates, allow_loopback=allow_loopback, limit=4096)
    for endpoint in endpoints:
        address = ipaddress.ip_address(endpoint.host)
        assert not any((address.is_multicast, address.is_unspecified, address.is_link_local))
        assert allow_loopback or not address.is_loopback
        assert endpoint.host != "255.255.255.255"
    assert len(set(endpoints)) == len(endpoints)
    assert bool(endpoints or refused) == bool(candidates)


def test_why_there_are_no_endpoints_is_said_with_three_examples_at_most() -> None:
    assert why_no_endpoints(()) == "DNS knows no such Service, or no pod is ready"
    refused = [Refusal(f"127.0.0.{number}", "loopback") for number in (4, 3, 2, 1)]
    assert why_no_endpoints(refused) == (
        "DNS returned only addresses that are refused: 127.0.0.1 (loopback), 127.0.0.2 (loopback), 127.0.0.3 (loopback)"
    )
