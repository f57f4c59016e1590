"""Sets of every size, up to what DNS can carry: UDP as long as it suffices, TCP after truncation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import dns.flags
import dns.message
import dns.query
import pytest

from fanout.discovery.dns import DnsResolver
from fanout.errors import ResolverUnavailable
from fanout.model import Endpoint, Family, Service
from tests.support.knot import NAMESPACE, Knot, a_records, addresses, service_name
from tests.support.waiting import PATIENCE
from tests.system.discovery.asking import over, resolve_and_dry_run

pytestmark = pytest.mark.nameserver

# A name of 45 characters. An A record takes 16 bytes of the answer (the name is a pointer), an AAAA record 28.
SIZES = [1, 28, 29, 72, 73, 500]
A_OVER_TCP = 4091
AAAA_SIZES = [1, 28, 29, 41, 42, 72, 73, 500]
AAAA_OVER_TCP = 2337

EMPTY = f"headless-udp-empty.{NAMESPACE}"
ABSENT = f"headless-udp-absent.{NAMESPACE}"
BOTH = f"headless-udp-both.{NAMESPACE}"


def a_name(size: int) -> str:
    return service_name(f"a{size}")


def aaaa_name(size: int) -> str:
    return service_name(f"q{size}")


def pods(size: int) -> list[str]:
    return addresses(size)


def pods6(size: int) -> list[str]:
    return addresses(size, "fd00:10:128::1")


@pytest.fixture(scope="module")
def knot(start_knot: Callable[..., Knot]) -> Knot:
    return start_knot(
        {a_name(size): a_records(pods(size)) for size in [*SIZES, A_OVER_TCP, A_OVER_TCP + 1]}
        | {aaaa_name(size): a_records(pods6(size)) for size in [*AAAA_SIZES, AAAA_OVER_TCP, AAAA_OVER_TCP + 1, 4000]}
        | {EMPTY: ['TXT "a name without addresses"'], BOTH: a_records([*pods(3), *pods6(2)])}
    )


def ask(knot: Knot, name: str, family: Family = Family.ANY) -> tuple[set[Endpoint], list[tuple[str, str, str]]]:
    answer = DnsResolver(Service(name, 12000, family), nameserver=knot.nameserver).resolve()
    assert len(set(answer.endpoints)) == len(answer.endpoints)
    assert answer.refused == ()
    assert answer.dns_ttl == (5 if answer.endpoints else None)
    return set(answer.endpoints), over(answer.lookups)


def endpoints(hosts: list[str]) -> set[Endpoint]:
    return {Endpoint(host, 12000) for host in hosts}


def records(size: int) -> str:
    return "1 record" if size == 1 else f"{size} records"


def lookups(record: str, size: int, largest_over_udp: int) -> list[tuple[str, str, str]]:
    if size <= largest_over_udp:
        return [(record, "UDP", records(size))]
    return [(record, "UDP", "truncated"), (record, "TCP", records(size))]


@pytest.mark.parametrize("size", [*SIZES, A_OVER_TCP])
def test_a_records(knot: Knot, size: int) -> None:
    assert ask(knot, a_name(size)) == (endpoints(pods(size)), lookups("A", size, 72))


@pytest.mark.parametrize(
    ("family", "size"), [*product([Family.IPV6, Family.ANY], AAAA_SIZES), (Family.ANY, AAAA_OVER_TCP)]
)
def test_aaaa_records(knot: Knot, size: int, family: Family) -> None:
    asked = lookups("AAAA", size, 41)
    if family is Family.ANY:
        asked = [("A", "UDP", "NODATA"), *asked]
    assert ask(knot, aaaa_name(size), family) == (endpoints(pods6(size)), asked)


def test_without_edns_28_records_fit(knot: Knot) -> None:
    truncated = {}
    for size in (28, 29):
        question = dns.message.make_query(a_name(size), "A", use_edns=False)
        response = dns.query.udp(question, "127.0.0.1", timeout=PATIENCE, port=knot.port)
        truncated[size] = bool(response.flags & dns.flags.TC)
    assert truncated == {28: False, 29: True}


def test_of_both_families_a_wins(knot: Knot) -> None:
    assert ask(knot, BOTH) == (endpoints(pods(3)), [("A", "UDP", "3 records")])
    assert ask(knot, BOTH, Family.IPV4) == (endpoints(pods(3)), [("A", "UDP", "3 records")])
    assert ask(knot, BOTH, Family.IPV6) == (endpoints(pods6(2)), [("AAAA", "UDP", "2 records")])


def test_one_family_only(knot: Knot) -> None:
    assert ask(knot, aaaa_name(28), Family.IPV4) == (set(), [("A", "UDP", "NODATA")])
    assert ask(knot, a_name(28), Family.IPV6) == (set(), [("AAAA", "UDP", "NODATA")])


def test_no_endpoints(knot: Knot) -> None:
    assert ask(knot, ABSENT) == (set(), [("A", "UDP", "NXDOMAIN")])
    assert ask(knot, EMPTY) == (set(), [("A", "UDP", "NODATA"), ("AAAA", "UDP", "NODATA")])
    assert ask(knot, ABSENT, Family.IPV6) == (set(), [("AAAA", "UDP", "NXDOMAIN")])


@pytest.mark.parametrize(
    ("name", "record", "family"),
    [
        (a_name(A_OVER_TCP + 1), "A", Family.ANY),
        (aaaa_name(AAAA_OVER_TCP + 1), "AAAA", Family.IPV6),
        (aaaa_name(4000), "AAAA", Family.ANY),
    ],
)
def test_what_dns_cannot_carry_is_an_error_and_no_part_of_it_is_believed(
    knot: Knot, name: str, record: str, family: Family
) -> None:
    with pytest.raises(ResolverUnavailable) as raised:
        ask(knot, name, family)
    sentence = str(raised.value)
    assert sentence.startswith(f"cannot resolve {name} {record} at {knot.nameserver}: ")
    assert "SERVFAIL" in sentence
    assert "NetworkPolicy" not in sentence, "TCP did work"


@pytest.mark.parametrize("size", [1, 72, 73, 500])
def test_command_line_a(knot: Knot, size: int) -> None:
    wanted = endpoints(pods(size))
    resolve, dry_run = resolve_and_dry_run(knot.nameserver, a_name(size))
    assert (resolve.code, resolve.err) == (0, "")
    assert {Endpoint.parse(text) for text in resolve.json["endpoints"]} == wanted
    assert len(resolve.json["endpoints"]) == size
    assert (resolve.json["name"], resolve.json["dns_ttl"], resolve.json["refused"]) == (a_name(size), 5, [])
    asked = [(lookup["record"], lookup["over"], lookup["result"]) for lookup in resolve.json["lookups"]]
    assert asked == lookups("A", size, 72)
    assert {lookup["nameserver"] for lookup in resolve.json["lookups"]} == {knot.nameserver}
    assert (dry_run.code, dry_run.err, dry_run.json["dry_run"]) == (0, "", True)
    assert {Endpoint.parse(entry["endpoint"]) for entry in dry_run.json["endpoints"]} == wanted
    assert len(dry_run.json["endpoints"]) == size


@pytest.mark.parametrize(("name", "options", "wanted"), [
    (aaaa_name(73), (), pods6(73)),
    (aaaa_name(41), ("--family", "ipv6"), pods6(41)),
    (BOTH, (), pods(3)),
    (BOTH, ("--family", "ipv6"), pods6(2)),
])  # fmt: skip
def test_command_line_families(knot: Knot, name: str, options: tuple[str, ...], wanted: list[str]) -> None:
    resolve, dry_run = resolve_and_dry_run(knot.nameserver, name, *options)
    assert (resolve.code, resolve.err, dry_run.code, dry_run.err) == (0, "", 0, "")
    assert {Endpoint.parse(text) for text in resolve.json["endpoints"]} == endpoints(wanted)
    assert {Endpoint.parse(entry["endpoint"]) for entry in dry_run.json["endpoints"]} == endpoints(wanted)


@pytest.mark.parametrize(("name", "options"), [(ABSENT, ()), (EMPTY, ()), (a_name(28), ("--family", "ipv6"))])
def test_command_line_no_endpoints(knot: Knot, name: str, options: tuple[str, ...]) -> None:
    resolve, dry_run = resolve_and_dry_run(knot.nameserver, name, *options)
    assert (resolve.code, resolve.json["endpoints"]) == (3, [])
    assert (dry_run.code, dry_run.json["exit_code"]) == (3, 3)
    assert "has no endpoints" in dry_run.assert_one_sentence(3)
