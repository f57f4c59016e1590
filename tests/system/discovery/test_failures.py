"""A nameserver that is in trouble, or lies: a clear error at first, and the last known pods ever after."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Callable, Iterable, Iterator

import dns.message
import dns.name
import dns.rrset
import pytest

from fanout.discovery.core.endpoints import TTL_MIN, EndpointSet
from fanout.discovery.dns import DnsResolver
from fanout.model import Endpoint, Service
from tests.support.cli import invoke
from tests.support.knot import NAMESPACE, Knot, a_records, addresses
from tests.support.limits import dns_lifetime, setting
from tests.support.scripted_nameserver import Front, Lie, Over, Reply
from tests.support.waiting import until
from tests.system.discovery.asking import HASTY, PATIENT, Asker, count_refreshing, first_error, sending

pytestmark = pytest.mark.nameserver

SMALL, LARGE = f"headless-udp.{NAMESPACE}", f"headless-udp-large.{NAMESPACE}"
PODS = {SMALL: addresses(3, "127.1.0.1"), LARGE: addresses(73, "127.1.0.1")}
RECORDS = {name: a_records(hosts, dns_ttl=0) for name, hosts in PODS.items()}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A port on which all of loopback receives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as everywhere:
        everywhere.bind(("0.0.0.0", 0))
        yield everywhere.getsockname()[1]


@pytest.fixture(scope="module")
def knot(start_knot: Callable[..., Knot]) -> Knot:
    return start_knot(RECORDS)


def test_refused_servfail_and_silence(
    start_knot: Callable[..., Knot], port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fanout")
    knot = start_knot(RECORDS)
    known = tuple(Endpoint(host, port) for host in PODS[SMALL])
    service = Service(SMALL, port)
    asker = Asker(service, nameserver=knot.nameserver, allow_loopback=True)
    ages: list[float] = []
    with sending(service, asker) as sender:
        assert sender.resolve() == known

        def assert_failing(result: str, hint: str, lifetime: float = PATIENT) -> None:
            with asker.changing(lifetime=lifetime):
                failures = sender.stats.resolver_failures
            sentence = first_error(Service(SMALL, port), knot.nameserver, lifetime)
            assert sentence.startswith(f"cannot resolve {SMALL} A at {knot.nameserver}: {result}")
            assert hint in sentence
            until(lambda: sender.stats.resolver_failures > failures, f"a failure ({result})")
            # The commands below show warnings of the library: that of the sender has been logged by then.
            until(lambda: "resolver_failed" in caplog.text, "it says so")
            report = sender.send(b"still there")
            assert (report.endpoints, report.stale, report.complete) == (known, True, True)
            ages.append(report.age)
            with setting(dns_lifetime(lifetime)):
                for command in (["send", "-m", "x"], ["resolve"]):
                    run = invoke(*command, "-s", SMALL, "--nameserver", knot.nameserver)
                    assert hint in run.assert_one_sentence(1)
            until(lambda: count_refreshing() == 1, "the sender of a command asks no more")

        knot.refuse()
        assert_failing("REFUSED", "REFUSED")
        knot.lose_zone()
        assert_failing("SERVFAIL", "SERVFAIL")
        with knot.stopped():
            assert_failing("no answer within 0.1 s", "does a NetworkPolicy allow DNS", HASTY)
            with asker.changing(lifetime=PATIENT):
                pass
        knot.recover_zone()
        assert ages == sorted(set(ages))
        until(lambda: not sender.send(b"again").stale, "the sender recovers")
        until(lambda: "resolver_recovered" in caplog.text, "it says so")
        assert sender.endpoints == known
    # The commands' senders, which never had an answer, say it otherwise, and not as loud.
    events = [r.getMessage().partition(":")[0] for r in caplog.records if "resolver_failed: cannot" not in r.message]
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


@pytest.mark.parametrize("name", LIES)
def test_lies(knot: Knot, port: int, name: str) -> None:
    over, lie = LIES[name]
    # What is no answer is waited behind, over UDP; over TCP it is the end.
    service, lifetime, sentence = (
        (Service(SMALL, port), HASTY, "no answer within 0.1 s")
        if over == "UDP"
        else (Service(LARGE, port), PATIENT, "too large for UDP")
    )
    with Front(knot, lie=lie, over=over) as front:
        said = first_error(service, front.nameserver, lifetime)
        assert said.startswith(f"cannot resolve {service.name} A at {front.nameserver}: ")
        assert sentence in said
        with setting(dns_lifetime(lifetime)):
            run = invoke("send", "-s", service.name, "-m", "x", "--nameserver", front.nameserver)
        assert "cannot resolve" in run.assert_one_sentence(1)

        front.lie = None
        asker = Asker(service, nameserver=front.nameserver, allow_loopback=True)
        with sending(service, asker) as sender:
            known = sender.resolve()
            assert {endpoint.host for endpoint in known} == set(PODS[service.name])
            with asker.changing(lifetime=lifetime):
                front.lie = lie
            until(lambda: sender.stats.resolver_failures, "the lie is told")
            report = sender.send(b"still there")
            assert (report.endpoints, report.stale) == (known, True)
            with asker.changing(lifetime=PATIENT):
                front.lie = None
            until(lambda: not sender.send(b"again").stale, "the truth is told")
            assert sender.endpoints == known


def with_dns_ttl(dns_ttl: int) -> Lie:
    def lie(question: bytes, truth: bytes) -> Iterable[bytes]:
        message = dns.message.from_wire(truth)
        message.answer[0].ttl = dns_ttl
        yield message.to_wire()

    return lie


@pytest.mark.parametrize(("dns_ttl", "least", "most"), [(2**31 - 1, 27, 33), (0, 0.9, 1.1)])
def test_a_dns_ttl_without_measure_is_clamped(knot: Knot, dns_ttl: int, least: float, most: float) -> None:
    with Front(knot, lie=with_dns_ttl(dns_ttl)) as front:
        answer = DnsResolver(Service(SMALL), nameserver=front.nameserver, allow_loopback=True).resolve()
        assert (answer.dns_ttl, len(answer.endpoints)) == (dns_ttl, 3)
        for jitter in (0.0, 0.5, 1.0):
            pods = EndpointSet()
            with setting(
                {"fanout.discovery.core.endpoints:TTL_MIN": TTL_MIN}
            ):  # the usual one, and not that of these tests
                pods.answered(answer, 1000.0, jitter)
            wakeup = pods.next_wakeup
            assert wakeup is not None
            assert least <= round(wakeup - 1000.0, 6) <= most
        options = ["--nameserver", front.nameserver, "--allow-loopback", "-o", "json"]
        assert invoke("resolve", "-s", SMALL, *options).json["dns_ttl"] == dns_ttl
