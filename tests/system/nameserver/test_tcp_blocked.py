"""Where DNS over TCP is blocked, sets that fit into UDP work, and larger ones fail with a sentence that says so."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import get_args

import pytest

from fanout.discovery.dns import DnsResolver
from fanout.errors import ResolverUnavailable
from fanout.model import Endpoint, Service
from fanout.sender import Sender
from tests.support.knot import NAMESPACE, Knot, a_records, addresses, service_name
from tests.support.namespace import Namespace
from tests.support.scripted import Front, Tcp
from tests.support.waiting import until
from tests.system.nameserver.asking import resolve_and_dry_run

pytestmark = pytest.mark.nameserver

FITS, LARGER, GROWING = service_name("72"), service_name("73"), service_name("grow")
RECORDS = {name: a_records(addresses(size)) for name, size in ((FITS, 72), (LARGER, 73))}
# Pods that answer on loopback: what is sent to them stays on this machine.
LOCAL = addresses(100, "127.1.0.1")


@pytest.fixture(scope="module")
def knot(start_knot: Callable[..., Knot]) -> Knot:
    return start_knot(RECORDS | {GROWING: a_records(LOCAL[:72], dns_ttl=1)})


@pytest.fixture(scope="module", params=["refused", "silent"])
def tcp(request: pytest.FixtureRequest) -> Tcp:
    mode: Tcp = request.param
    return mode


@pytest.fixture(scope="module")
def front(knot: Knot, tcp: Tcp) -> Iterator[Front]:
    with Front(knot, tcp=tcp) as made:
        yield made


def test_what_fits_into_udp_works(front: Front) -> None:
    assert len(DnsResolver(Service(FITS), nameserver=front.nameserver).resolve().endpoints) == 72
    resolve, dry_run = resolve_and_dry_run(front.nameserver, FITS)
    assert (resolve.code, dry_run.code) == (0, 0)
    assert len(resolve.json["endpoints"]) == len(dry_run.json["endpoints"]) == 72


def test_what_does_not_fit_fails_and_names_tcp(front: Front, tcp: Tcp) -> None:
    started = time.monotonic()
    with pytest.raises(ResolverUnavailable, match="too large for UDP, and TCP did not work") as raised:
        DnsResolver(Service(LARGER), nameserver=front.nameserver, lifetime=0.5).resolve()
    assert time.monotonic() - started < 0.5 + 0.5
    assert ("refused" if tcp == "refused" else "no answer in") in str(raised.value)
    assert "allow DNS over TCP, in the NetworkPolicy too" in str(raised.value)
    resolve, dry_run = resolve_and_dry_run(front.nameserver, LARGER)
    assert "allow DNS over TCP" in resolve.assert_one_sentence(1)
    assert "allow DNS over TCP" in dry_run.assert_one_sentence(1)
    assert dry_run.json["exit_code"] == 1


def test_running_senders_keep_their_pods_when_the_set_grows(knot: Knot) -> None:
    with ExitStack() as stack:
        everywhere = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        everywhere.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        everywhere.bind(("0.0.0.0", 0))
        everywhere.settimeout(2)
        service = Service(GROWING, everywhere.getsockname()[1])
        known = tuple(Endpoint(host, everywhere.getsockname()[1]) for host in LOCAL[:72])
        senders = []
        for tcp in get_args(Tcp):
            front = stack.enter_context(Front(knot, tcp=tcp))
            resolver = DnsResolver(service, nameserver=front.nameserver, lifetime=0.5, allow_loopback=True)
            senders.append(stack.enter_context(Sender(service, resolver=resolver)))
        assert [sender.resolve() for sender in senders] == [known] * 3
        allowed, *blocked = senders
        knot.publish({GROWING: a_records(LOCAL[:73], dns_ttl=1)})
        for sender in blocked:
            until(lambda: sender.stats.resolver_failures >= 1, "the resolver fails")  # noqa: B023
            report = sender.send(b"still there", settle=0.05)
            assert report.stale
            assert report.age > 0.5
            assert (report.endpoints, report.complete) == (known, True)
            assert {everywhere.recv(64) for _ in range(72)} == {b"still there"}
        until(lambda: len(allowed.endpoints) == 73, "the sender that may use TCP knows the new pod")
        knot.publish({GROWING: a_records(LOCAL[1:73], dns_ttl=1)})
        for sender in senders:
            until(lambda: {e.host for e in sender.endpoints} == set(LOCAL[1:73]), "the change is followed")  # noqa: B023
            assert not sender.send(b"again").stale


def test_a_firewall_that_drops_tcp(namespace: Namespace, nft: str) -> None:
    namespace.run(nft, "add table inet test")
    namespace.run(nft, "add chain inet test input { type filter hook input priority 0; }")
    namespace.run(nft, "add rule inet test input tcp dport 53 drop")
    namespace.configure("nameserver 127.0.0.1", f"search {NAMESPACE}", "options ndots:5")
    with Knot(RECORDS, port=53, command=namespace.command):
        fits = namespace.fanout("send", "--dry-run", "-m", "x", "-s", FITS.partition(".")[0], "-o", "json")
        assert (fits.code, len(fits.json["endpoints"])) == (0, 72)
        larger = namespace.fanout("send", "-m", "x", "-s", LARGER.partition(".")[0])
        sentence = larger.assert_one_sentence(1)
        assert "TCP did not work (no answer in " in sentence
        assert "allow DNS over TCP, in the NetworkPolicy too" in sentence
