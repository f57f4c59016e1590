"""A nameserver that is in trouble, or lies: a clear error at first, and the last known pods ever after."""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import dns.message
import dns.name
import dns.rrset
import pytest

from fanout.discovery.dns import DnsResolver
from fanout.discovery.endpoints import EndpointSet
from fanout.errors import ResolverUnavailable
from fanout.model import Endpoint, Service
from fanout.sender import Sender
from tests.support.cli import Run, fanout
from tests.support.knot import NAMESPACE, Knot, a_records, addresses
from tests.support.scripted import Front, Lie, Over, Reply
from tests.support.waiting import until
from tests.system.nameserver.asking import together

pytestmark = pytest.mark.nameserver

LIFETIME = 0.5
SMALL, LARGE = f"headless-udp.{NAMESPACE}", f"headless-udp-large.{NAMESPACE}"
PODS = {SMALL: addresses(3, "127.1.0.1"), LARGE: addresses(73, "127.1.0.1")}
RECORDS = {name: a_records(hosts, dns_ttl=1) for name, hosts in PODS.items()}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A port on which all of loopback receives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as everywhere:
        everywhere.bind(("0.0.0.0", 0))
        yield everywhere.getsockname()[1]


def resolver_of(nameserver: str, name: str, port: int) -> DnsResolver:
    return DnsResolver(Service(name, port), nameserver=nameserver, lifetime=LIFETIME, allow_loopback=True)


def first_error(nameserver: str, name: str, port: int) -> tuple[str, float]:
    """Return what a first resolution says, and how many seconds it took to say so."""
    started = time.monotonic()
    with pytest.raises(ResolverUnavailable) as raised:
        resolver_of(nameserver, name, port).resolve()
    return str(raised.value), time.monotonic() - started


def test_refused_servfail_and_silence(
    start_knot: Callable[..., Knot], port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fanout")
    knot = start_knot(RECORDS)
    known = tuple(Endpoint(host, port) for host in PODS[SMALL])
    commands = [
        ["send", "-s", SMALL, "-m", "x", "--nameserver", knot.nameserver],
        ["resolve", "-s", SMALL, "--nameserver", knot.nameserver],
    ]
    with Sender(SMALL, port, resolver=resolver_of(knot.nameserver, SMALL, port)) as sender:
        assert sender.resolve() == known

        def assert_failing(result: str, hint: str) -> None:
            failures = sender.stats.resolver_failures
            with ThreadPoolExecutor(1) as pool:
                runs = pool.submit(together, *commands)
                sentence, seconds = first_error(knot.nameserver, SMALL, port)
                assert sentence.startswith(f"cannot resolve {SMALL} A at {knot.nameserver}: {result}")
                assert hint in sentence
                assert seconds < LIFETIME + 0.5
                until(lambda: sender.stats.resolver_failures > failures, f"a failure ({result})")
                report = sender.send(b"still there")
                assert (report.endpoints, report.stale, report.complete) == (known, True, True)
                ages.append(report.age)
                for run in runs.result():
                    assert hint in run.assert_one_sentence(1)

        ages: list[float] = []
        knot.refuse()
        assert_failing("REFUSED", "REFUSED")
        knot.lose_zone()
        assert_failing("SERVFAIL", "SERVFAIL")
        with knot.stopped():
            assert_failing("no answer within 0.5 s", "does a NetworkPolicy allow DNS")
        knot.recover_zone()
        assert ages == sorted(set(ages))
        until(lambda: not sender.send(b"again").stale, "the sender recovers")
        until(lambda: "resolver_recovered" in caplog.text, "it says so")
        assert sender.endpoints == known
    events = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert [events.count(event) for event in ("pod_joined", "resolver_failed", "resolver_recovered")] == [3, 1, 1]
    assert "pod_left" not in events


def wrong_id(question: bytes, truth: bytes) -> Iterable[bytes]:
    yield bytes([truth[0] ^ 0xFF, *truth[1:]])


def wrong_question(question: bytes, truth: bytes) -> Iterable[bytes]:
    yield truth.replace(b"\x0cheadless-udp", b"\x0cheadless-tcp", 1)


def compression_loop(question: bytes, truth: bytes) -> Iterable[bytes]:
    start = 12 + question[12:].index(b"\x00") + 5
    pointer_to_itself = bytes([0xC0 | start >> 8, start & 0xFF])
    yield truth[:4] + b"\x00\x01\x00\x01\x00\x00\x00\x00" + truth[12:start] + pointer_to_itself + truth[start + 2 :]


LIES: dict[str, tuple[Over, Lie]] = {
    "random bytes": ("UDP", lambda question, truth: [random.Random(7).randbytes(300)]),
    "an empty datagram": ("UDP", lambda question, truth: [b""]),
    "the right id and random bytes": ("UDP", lambda question, truth: [truth[:2] + random.Random(7).randbytes(300)]),
    "a wrong id": ("UDP", wrong_id),
    "a wrong question": ("UDP", wrong_question),
    "the question itself": ("UDP", lambda question, truth: [question]),
    "a message that is cut off": ("UDP", lambda question, truth: [truth[: len(truth) - 20]]),
    "an answer from a wrong port": ("UDP", lambda question, truth: [Reply(truth, from_elsewhere=True)]),
    "a compression loop": ("UDP", compression_loop),
    "nothing": ("UDP", lambda question, truth: []),
    "random bytes over TCP": ("TCP", lambda question, truth: [random.Random(7).randbytes(300)]),
    "an end within the message over TCP": (
        "TCP",
        lambda question, truth: [Reply(len(truth).to_bytes(2, "big") + truth[:-20], unframed=True)],
    ),
    "a wrong id over TCP": ("TCP", wrong_id),
    "a part of the set over TCP": ("TCP", lambda question, truth: [truth[:2] + bytes([truth[2] | 2]) + truth[3:]]),
}


class Told(NamedTuple):
    """What became of one lie."""

    sentence: str
    seconds: float
    run: Run
    known: tuple[Endpoint, ...]
    kept: tuple[Endpoint, ...]
    was_stale: bool
    after: tuple[Endpoint, ...]


def tell(knot: Knot, port: int, over: Over, lie: Lie) -> Told:
    name = SMALL if over == "UDP" else LARGE
    with Front(knot, lie=lie, over=over) as liar, Front(knot, over=over) as front, ThreadPoolExecutor(2) as pool:
        first = pool.submit(first_error, liar.nameserver, name, port)
        run = pool.submit(fanout, "send", "-s", name, "-m", "x", "--nameserver", liar.nameserver)
        with Sender(name, port, resolver=resolver_of(front.nameserver, name, port)) as sender:
            # Not resolve(): so many at a time, a first answer may be late, and the next question is then asked soon.
            until(lambda: sender.endpoints, "the truth is known")
            known, failures = sender.endpoints, sender.stats.resolver_failures
            front.lie = lie
            until(lambda: sender.stats.resolver_failures > failures, "the lie is told")
            report = sender.send(b"still there")
            front.lie = None
            until(lambda: not sender.send(b"again").stale, "the truth is told")
            return Told(*first.result(), run.result(), known, report.endpoints, report.stale, sender.endpoints)


@pytest.fixture(scope="module")
def told(start_knot: Callable[..., Knot], port: int) -> dict[str, Future[Told]]:
    """All lies, told at the same time: most of it is waiting."""
    knot = start_knot(RECORDS)
    with ThreadPoolExecutor(len(LIES)) as pool:
        return {name: pool.submit(tell, knot, port, over, lie) for name, (over, lie) in LIES.items()}


@pytest.mark.alone
@pytest.mark.parametrize("name", LIES)
def test_lies(told: dict[str, Future[Told]], name: str) -> None:
    sentence, seconds, run, known, kept, was_stale, after = told[name].result()
    service = SMALL if LIES[name][0] == "UDP" else LARGE
    assert sentence.startswith(f"cannot resolve {service} A at 127.0.0.1:")
    assert ("no answer within 0.5 s" if service == SMALL else "too large for UDP") in sentence
    assert seconds < LIFETIME + 2.0, "many at a time: two seconds more for all of them"
    assert "cannot resolve" in run.assert_one_sentence(1)
    assert {endpoint.host for endpoint in known} == set(PODS[service])
    assert (kept, was_stale, after) == (known, True, known)


def with_dns_ttl(dns_ttl: int) -> Lie:
    def lie(question: bytes, truth: bytes) -> Iterable[bytes]:
        message = dns.message.from_wire(truth)
        message.answer[0].ttl = dns_ttl
        yield message.to_wire()

    return lie


@pytest.mark.parametrize(("dns_ttl", "least", "most"), [(2**31 - 1, 27, 33), (0, 0.9, 1.1)])
def test_a_dns_ttl_without_measure_is_clamped(
    start_knot: Callable[..., Knot], dns_ttl: int, least: float, most: float
) -> None:
    with Front(start_knot(RECORDS), lie=with_dns_ttl(dns_ttl)) as front:
        answer = resolver_of(front.nameserver, SMALL, 12000).resolve()
        assert (answer.dns_ttl, len(answer.endpoints)) == (dns_ttl, 3)
        for jitter in (0.0, 0.5, 1.0):
            pods = EndpointSet()
            pods.answered(answer, 1000.0, jitter)
            wakeup = pods.next_wakeup()
            assert wakeup is not None
            assert least <= round(wakeup - 1000.0, 6) <= most
        options = ["--nameserver", front.nameserver, "--allow-loopback", "-o", "json"]
        assert fanout("resolve", "-s", SMALL, *options).json["dns_ttl"] == dns_ttl
