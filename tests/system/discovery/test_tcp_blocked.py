"""Where DNS over TCP is blocked, sets that fit into UDP work, and larger ones fail with a sentence that says so."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import get_args

import pytest

from fanout.model import Endpoint, Service
from tests.support.cli import Run
from tests.support.knot import NAMESPACE, Knot, a_records, addresses, service_name
from tests.support.limits import dns_lifetime, setting
from tests.support.namespace import Namespace
from tests.support.scripted_nameserver import Front, Tcp
from tests.support.waiting import PATIENCE, until
from tests.system.discovery.asking import HASTY, PATIENT, Asker, first_error, resolve_and_dry_run, sending

pytestmark = pytest.mark.nameserver

FITS, LARGER, GROWING = service_name("72"), service_name("73"), service_name("grow")
RECORDS = {name: a_records(addresses(size)) for name, size in ((FITS, 72), (LARGER, 73))}
# Pods that answer on loopback: what is sent to them stays on this machine.
LOCAL = addresses(100, "127.1.0.1")


@pytest.fixture(scope="module")
def knot(start_knot: Callable[..., Knot]) -> Knot:
    return start_knot(RECORDS)


@pytest.fixture(scope="module", params=["refused", "silent"])
def tcp(request: pytest.FixtureRequest) -> Tcp:
    mode: Tcp = request.param
    return mode


@pytest.fixture(scope="module")
def front(knot: Knot, tcp: Tcp) -> Iterator[Front]:
    with Front(knot, tcp=tcp) as made:
        yield made


def test_what_fits_into_udp_works(front: Front) -> None:
    resolve, dry_run = resolve_and_dry_run(front.nameserver, FITS)
    assert (resolve.code, dry_run.code) == (0, 0)
    assert len(resolve.json["endpoints"]) == len(dry_run.json["endpoints"]) == 72


def test_what_does_not_fit_fails_and_names_tcp(front: Front, tcp: Tcp) -> None:
    lifetime = PATIENT if tcp == "refused" else HASTY
    service = Service(LARGER)

    def error() -> str | None:
        # That UDP is answered takes its part of the lifetime: on a slow machine, all of it.
        said = first_error(service, front.nameserver, lifetime)
        return None if "no answer within" in said else said

    said = until(error, "TCP is tried")
    assert "too large for UDP, and TCP did not work" in said
    assert ("refused" if tcp == "refused" else "no answer in") in said
    assert "allow DNS over TCP, in the NetworkPolicy too" in said

    def runs() -> tuple[Run, Run] | None:
        with setting(dns_lifetime(lifetime)):
            both = resolve_and_dry_run(front.nameserver, LARGER)
        return None if any("no answer within" in run.err for run in both) else both

    resolve, dry_run = until(runs, "TCP is tried")
    assert "allow DNS over TCP" in resolve.assert_one_sentence(1)
    assert "allow DNS over TCP" in dry_run.assert_one_sentence(1)
    assert dry_run.json["exit_code"] == 1


@pytest.mark.parametrize("tcp", get_args(Tcp))
def test_a_running_sender_follows_a_set_that_grows_where_it_may_use_tcp(knot: Knot, tcp: Tcp) -> None:
    lifetime = HASTY if tcp == "silent" else PATIENT
    with ExitStack() as stack:
        everywhere = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        everywhere.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        everywhere.bind(("0.0.0.0", 0))
        everywhere.settimeout(PATIENCE)
        service = Service(GROWING, everywhere.getsockname()[1])
        known = tuple(Endpoint(host, everywhere.getsockname()[1]) for host in LOCAL[:72])
        knot.publish({GROWING: a_records(LOCAL[:72], dns_ttl=0)})
        front = stack.enter_context(Front(knot, tcp=tcp))
        asker = Asker(service, nameserver=front.nameserver, allow_loopback=True)
        sender = stack.enter_context(sending(service, asker))
        assert sender.resolve() == known
        with asker.changing(lifetime=lifetime):
            knot.publish({GROWING: a_records(LOCAL[:73], dns_ttl=0)})
        if tcp == "open":
            until(lambda: len(sender.endpoints) == 73, "the new pod is known")
        else:
            until(lambda: sender.stats.resolver_failures >= 1, "the resolver fails")
            reports = [sender.send(b"still there", settle=0.001) for _ in range(2)]
            assert 0 < reports[0].age < reports[1].age
            for report in reports:
                assert (report.endpoints, report.complete, report.stale) == (known, True, True)
                assert {everywhere.recv(64) for _ in known} == {b"still there"}
        with asker.changing(lifetime=PATIENT):
            knot.publish({GROWING: a_records(LOCAL[1:73], dns_ttl=0)})
        until(lambda: {e.host for e in sender.endpoints} == set(LOCAL[1:73]), "the change is followed")
        until(lambda: not sender.send(b"again").stale, "the sender recovers")


def test_a_firewall_that_drops_tcp(namespace: Namespace, nft: str) -> None:
    namespace.run(nft, "add table inet test")
    namespace.run(nft, "add chain inet test input { type filter hook input priority 0; }")
    namespace.run(nft, "add rule inet test input tcp dport 53 drop")
    namespace.configure("nameserver 127.0.0.1", f"search {NAMESPACE}", "options ndots:5")
    with Knot(RECORDS, port=53, command=namespace.command):
        fits = namespace.invoke("send", "--dry-run", "-m", "x", "-s", FITS.partition(".")[0], "-o", "json")
        assert (fits.code, len(fits.json["endpoints"])) == (0, 72)

        def failure() -> str | None:
            larger = ("send", "-m", "x", "-s", LARGER.partition(".")[0])
            said = namespace.invoke(*larger, limits=dns_lifetime(HASTY)).assert_one_sentence(1)
            return None if "no answer within" in said else said

        sentence = until(failure, "TCP is tried")
        assert "TCP did not work (no answer in " in sentence
        assert "allow DNS over TCP, in the NetworkPolicy too" in sentence
