"""Answers that name what no pod can be: refused, and the reason is told once."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from fanout.discovery.dns import DnsResolver
from fanout.errors import NoEndpoints
from fanout.model import Endpoint, Family, Service
from fanout.sender.sync import Sender
from tests.support.knot import NAMESPACE, Knot, a_records, addresses
from tests.support.waiting import until
from tests.system.discovery.asking import resolve_and_dry_run

pytestmark = pytest.mark.nameserver

REFUSED = {
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "169.254.169.254": "link-local",
    "224.0.0.251": "multicast",
    "255.255.255.255": "broadcast",
}
# Mapped addresses are unmapped first, and told as what they are.
REFUSED6 = {
    "::1": "loopback",
    "127.0.0.1": "loopback",
    "::": "unspecified",
    "fe80::1": "link-local",
    "169.254.169.254": "link-local",
    "ff02::fb": "multicast",
    "255.255.255.255": "broadcast",
}
MAPPED = {"127.0.0.1", "169.254.169.254", "255.255.255.255", "10.128.0.9"}
MIXED, MIXED6, ALL_HOSTILE = (f"headless-{label}.{NAMESPACE}" for label in ("mixed", "mixed6", "hostile"))
MANY = addresses(4100)
MANY_NAME = "headless-many.test."


@pytest.fixture(scope="module")
def knot(start_knot: Callable[..., Knot]) -> Knot:
    answer6 = [f"::ffff:{host}" if host in MAPPED else host for host in [*REFUSED6, "fd00::1", "10.128.0.9"]]
    return start_knot(
        {
            MIXED: a_records(["10.128.0.1", *REFUSED, "10.128.0.2"], dns_ttl=0),
            MIXED6: a_records(answer6),
            ALL_HOSTILE: a_records(REFUSED),
        }
    )


def test_hostile_addresses_are_refused_with_the_reason(knot: Knot) -> None:
    answer = DnsResolver(Service(MIXED), nameserver=knot.nameserver).resolve()
    assert {endpoint.host for endpoint in answer.endpoints} == {"10.128.0.1", "10.128.0.2"}
    assert dict(answer.refused) == REFUSED
    answer = DnsResolver(Service(MIXED6, 12000, Family.IPV6), nameserver=knot.nameserver).resolve()
    assert {endpoint.host for endpoint in answer.endpoints} == {"fd00::1", "10.128.0.9"}
    assert dict(answer.refused) == REFUSED6


def test_command_line_shows_them(knot: Knot) -> None:
    for name, reasons, count in ((MIXED, REFUSED, 2), (MIXED6, REFUSED6, 2)):
        resolve, dry_run = resolve_and_dry_run(knot.nameserver, name)
        assert (resolve.code, dry_run.code) == (0, 0)
        assert {entry["address"]: entry["reason"] for entry in resolve.json["refused"]} == reasons
        assert len(resolve.json["endpoints"]) == len(dry_run.json["endpoints"]) == count
        # The library's warnings, one an address.
        for address, reason in reasons.items():
            assert dry_run.err.count(f"{address} in the answer for {name}: {reason}\n") == 1


def test_nothing_but_hostile_addresses_is_no_endpoints(knot: Knot) -> None:
    resolve, dry_run = resolve_and_dry_run(knot.nameserver, ALL_HOSTILE)
    assert (resolve.code, resolve.json["endpoints"], len(resolve.json["refused"])) == (3, [], len(REFUSED))
    assert (dry_run.code, dry_run.json["exit_code"]) == (3, 3)
    with Sender(ALL_HOSTILE, nameserver=knot.nameserver) as sender, pytest.raises(NoEndpoints, match="refused"):
        sender.resolve()


def test_loopback_may_be_allowed(knot: Knot) -> None:
    resolve, _ = resolve_and_dry_run(knot.nameserver, MIXED, "--allow-loopback")
    assert {"127.0.0.1:12000", "127.255.255.254:12000"} <= set(resolve.json["endpoints"])
    assert {entry["reason"] for entry in resolve.json["refused"]} == set(REFUSED.values()) - {"loopback"}


def test_the_library_warns_once_and_not_with_each_answer(knot: Knot, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fanout")
    answers = []
    inner = DnsResolver(Service(MIXED), nameserver=knot.nameserver)

    class Counted:
        def resolve(self) -> object:
            answers.append(inner.resolve())
            return answers[-1]

    with Sender(MIXED, resolver=Counted()) as sender:  # type: ignore[arg-type]
        assert len(sender.resolve()) == 2
        until(lambda: len(answers) >= 3, "three answers")
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sorted(warned) == sorted(
        f"address_refused: {address} in the answer for {MIXED}: {reason}" for address, reason in REFUSED.items()
    )


def test_more_than_4096_addresses(start_knot: Callable[..., Knot]) -> None:
    # Under its own name a set of that size does not fit into a message; as an alias of the root it does.
    knot = start_knot({MANY_NAME: ["CNAME ."], ".": a_records(MANY)}, origin=".")
    resolve, dry_run = resolve_and_dry_run(knot.nameserver, MANY_NAME)
    assert (resolve.code, dry_run.code) == (0, 0)
    hosts = [Endpoint.parse(text).host for text in resolve.json["endpoints"]]
    refused = {entry["address"]: entry["reason"] for entry in resolve.json["refused"]}
    assert (len(hosts), len(refused), len(dry_run.json["endpoints"])) == (4096, 4, 4096)
    assert set(hosts) | set(refused) == set(MANY)
    assert set(refused.values()) == {"over the limit of 4096 endpoints"}
    (asked,) = resolve.json["lookups"][1:]
    assert (asked["record"], asked["over"], asked["result"]) == ("A", "TCP", "4100 records")


def test_the_limit_may_be_set(knot: Knot) -> None:
    answer = DnsResolver(Service(MIXED), nameserver=knot.nameserver, max_endpoints=1).resolve()
    assert len(answer.endpoints) == 1
    assert "over the limit of 1 endpoints" in dict(answer.refused).values()
