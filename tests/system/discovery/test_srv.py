"""A port by its name: SRV tells its number, one for all pods or one for each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fanout.discovery.dns import DnsResolver
from fanout.model import Endpoint, Family, Service
from tests.support.knot import NAMESPACE, Knot, a_records, addresses
from tests.system.discovery.asking import over, resolve_and_dry_run

pytestmark = pytest.mark.nameserver

ONE_PORT, NO_PODS = f"headless-udp.{NAMESPACE}", f"headless-none.{NAMESPACE}"
PODS, PODS6 = addresses(100), addresses(2, "fd00:10:128::1")


def ports_name(count: int) -> str:
    return f"headless-ports-{count}.{NAMESPACE}"


def with_ports(count: int) -> dict[str, list[str]]:
    """Return the records of a Service whose pods have a port each: a name for each pod, as CoreDNS gives them."""
    service = ports_name(count)
    targets = [f"pod-{number}.{service}" for number in range(count)]
    records = {target: a_records([host]) for target, host in zip(targets, PODS, strict=False)}
    records[service] = a_records(PODS[:count])
    records[f"_udp._udp.{service}"] = [
        f"SRV 0 {100 // count} {20000 + number} {target}" for number, target in enumerate(targets)
    ]
    return records


@pytest.fixture(scope="module")
def knot(start_knot: Callable[..., Knot]) -> Knot:
    one_port = {
        ONE_PORT: a_records([*PODS[:3], *PODS6]),
        f"_udp._udp.{ONE_PORT}": [f"SRV 0 33 12345 pod-{number}.{ONE_PORT}" for number in range(3)],
        **{f"pod-{number}.{ONE_PORT}": a_records([PODS[number]]) for number in range(3)},
    }
    return start_knot(one_port | with_ports(3) | with_ports(16) | with_ports(100) | {NO_PODS: ['TXT "no port"']})


def ask(knot: Knot, name: str, family: Family = Family.ANY) -> tuple[set[Endpoint], list[tuple[str, str, str]]]:
    answer = DnsResolver(Service(name, "udp", family), nameserver=knot.nameserver).resolve()
    assert len(set(answer.endpoints)) == len(answer.endpoints)
    return set(answer.endpoints), over(answer.lookups)


def each_with_its_port(count: int) -> set[Endpoint]:
    return {Endpoint(host, 20000 + number) for number, host in enumerate(PODS[:count])}


def test_one_port_for_all_pods_is_asked_for_once(knot: Knot) -> None:
    srv = ("SRV", "UDP", "3 records")
    assert ask(knot, ONE_PORT) == ({Endpoint(host, 12345) for host in PODS[:3]}, [srv, ("A", "UDP", "3 records")])
    assert ask(knot, ONE_PORT, Family.IPV6) == (
        {Endpoint(host, 12345) for host in PODS6},
        [srv, ("AAAA", "UDP", "2 records")],
    )


def test_the_addresses_come_along_with_differing_ports(knot: Knot) -> None:
    assert ask(knot, ports_name(3)) == (each_with_its_port(3), [("SRV", "UDP", "3 records")])
    assert ask(knot, ports_name(100)) == (
        each_with_its_port(100),
        [("SRV", "UDP", "truncated"), ("SRV", "TCP", "100 records")],
    )


def test_addresses_that_do_not_fit_are_asked_for(knot: Knot) -> None:
    # 16 SRV records fit into UDP, and only some of the addresses beside them: leaving those out is no truncation.
    endpoints, lookups = ask(knot, ports_name(16))
    assert endpoints == each_with_its_port(16)
    assert lookups[0] == ("SRV", "UDP", "16 records")
    assert 0 < len(lookups[1:]) <= 16
    assert set(lookups[1:]) == {("A", "UDP", "1 record")}


def test_command_line(knot: Knot) -> None:
    for name, endpoints in (
        (ONE_PORT, {Endpoint(host, 12345) for host in PODS[:3]}),
        (ports_name(100), each_with_its_port(100)),
    ):
        resolve, dry_run = resolve_and_dry_run(knot.nameserver, name, "-p", "udp")
        assert (resolve.code, resolve.err, dry_run.code, dry_run.err) == (0, "", 0, "")
        assert {Endpoint.parse(text) for text in resolve.json["endpoints"]} == endpoints
        assert {Endpoint.parse(entry["endpoint"]) for entry in dry_run.json["endpoints"]} == endpoints


@pytest.mark.parametrize(("name", "port"), [(ONE_PORT, "metrics"), (NO_PODS, "udp"), (f"absent.{NAMESPACE}", "udp")])
def test_a_port_that_does_not_exist(knot: Knot, name: str, port: str) -> None:
    answer = DnsResolver(Service(name, port), nameserver=knot.nameserver).resolve()
    assert (answer.endpoints, over(answer.lookups)) == ((), [("SRV", "UDP", "NXDOMAIN")])
    resolve, dry_run = resolve_and_dry_run(knot.nameserver, name, "-p", port)
    assert (resolve.code, resolve.json["endpoints"]) == (3, [])
    assert dry_run.json["exit_code"] == 3
    assert "has no endpoints" in dry_run.assert_one_sentence(3)
