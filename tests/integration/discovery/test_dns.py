"""What a real nameserver does not do: tests/system/discovery holds what one does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import pytest

from fanout.discovery.core.answer import DnsAnswer
from fanout.discovery.dns import DnsResolver, parse_nameserver
from fanout.errors import InvalidService, ResolverUnavailable
from fanout.model import Endpoint, Family, Service
from tests.support.scripted_nameserver import (
    Over,
    Reply,
    Script,
    ScriptedServer,
    Tcp,
    answering,
    record,
    response,
    srv,
    truncated,
)
from tests.support.waiting import PATIENCE, until

NAME = "headless-udp.ns.svc.cluster.local."

Serve = Callable[..., ScriptedServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a nameserver that answers by a script."""
    with ExitStack() as stack:

        def start(script: Script, *, tcp: Tcp = "open") -> ScriptedServer:
            return stack.enter_context(ScriptedServer(script, tcp=tcp))

        yield start


PODS = answering(f"{NAME} 5 IN A 10.0.0.1|10.0.0.2")
HASTY = 0.1
"""The lifetime (seconds) of a question that nobody answers."""


def silence(question: bytes, over: Over) -> Iterable[bytes]:
    return []


def resolver(server: ScriptedServer, name: str = NAME, port: int | str = 12000, **options: Any) -> DnsResolver:
    return DnsResolver(Service(name, port), nameserver=server.nameserver, **{"lifetime": PATIENCE, **options})


def hosts(answer: DnsAnswer) -> list[str]:
    # dnspython shuffles what it writes.
    return sorted(endpoint.host for endpoint in answer.endpoints)


def failure(resolver: DnsResolver) -> str:
    """Return the sentence of a failed resolution."""
    with pytest.raises(ResolverUnavailable) as raised:
        resolver.resolve()
    sentence = str(raised.value)
    assert sentence.splitlines() == [sentence]
    return sentence


def test_the_question_on_the_wire(serve: Serve) -> None:
    server = serve(PODS)
    assert hosts(resolver(server).resolve()) == ["10.0.0.1", "10.0.0.2"]
    (wire,) = server.questions
    question = dns.message.from_wire(wire)
    assert [rrset.to_text() for rrset in question.question] == [f"{NAME} IN A"]
    assert (question.edns, question.payload) == (0, 1232)
    assert question.flags & dns.flags.RD


def test_the_truth_is_waited_for_behind_lies(serve: Serve) -> None:
    def script(question: bytes, over: Over) -> Iterable[bytes | Reply]:
        (truth,) = PODS(question, over)
        assert isinstance(truth, bytes)
        spoofed = response(question, f"{NAME} 5 IN A 10.66.6.6").to_wire()
        yield Reply(spoofed, from_elsewhere=True)
        yield bytes([spoofed[0] ^ 1]) + spoofed[1:]
        yield b""
        yield truth[:2] + b"\xff" * 40
        yield truth

    assert hosts(resolver(serve(script)).resolve()) == ["10.0.0.1", "10.0.0.2"]


def test_aliases_are_followed(serve: Serve) -> None:
    server = serve(answering(f"{NAME} 60 IN CNAME other.test.", "other.test. 5 IN A 10.0.0.1|10.0.0.1"))
    answer = resolver(server).resolve()
    assert (hosts(answer), answer.name, answer.dns_ttl) == (["10.0.0.1"], NAME, 5)


def test_an_alias_of_itself(serve: Serve) -> None:
    server = serve(answering(f"{NAME} 5 IN CNAME other.test.", f"other.test. 5 IN CNAME {NAME}"))
    assert "chain" in failure(resolver(server))


@pytest.mark.parametrize(
    "rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR, dns.rcode.YXDOMAIN, 11]
)
def test_a_response_code_is_told_at_once(serve: Serve, rcode: int) -> None:
    server = serve(answering(rcode=rcode))
    assert failure(resolver(server, lifetime=3600)) == (
        f"cannot resolve {NAME} A at {server.nameserver}: {dns.rcode.to_text(dns.rcode.Rcode(rcode))}"
    )
    assert len(server.questions) == 1


def test_no_such_name_and_yet_an_answer(serve: Serve) -> None:
    server = serve(answering(f"{NAME} 5 IN A 10.0.0.1", rcode=dns.rcode.NXDOMAIN))
    assert failure(resolver(server)).endswith("The rcode is NXDOMAIN but an answer was found.")


def test_silence_ends_with_the_lifetime(serve: Serve) -> None:
    assert "no answer within 0.1 s" in failure(resolver(serve(silence), lifetime=HASTY))


def test_a_late_answer_is_waited_for(serve: Serve) -> None:
    released = threading.Event()

    def script(question: bytes, over: Over) -> Iterable[bytes | Reply]:
        released.wait(PATIENCE)
        return PODS(question, over)

    late, other = serve(script), serve(PODS)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(resolver(late, lifetime=3600).resolve)
        until(lambda: late.questions, "the question")
        for _ in range(10):
            resolver(other).resolve()
        assert not answer.done()
        released.set()
        assert hosts(answer.result()) == ["10.0.0.1", "10.0.0.2"]


def test_a_flood_of_lies_ends_with_the_lifetime(serve: Serve) -> None:
    ended = threading.Event()

    def script(question: bytes, over: Over) -> Iterable[bytes]:
        while not ended.is_set():
            yield bytes([question[0] ^ 1]) + question[1:]

    asking = resolver(serve(script), lifetime=HASTY)
    try:
        assert "no answer within 0.1 s" in failure(asking)
    finally:
        ended.set()


def test_other_classes_are_no_addresses(serve: Serve) -> None:
    def script(question: bytes, over: Over) -> Iterable[bytes]:
        asked = dns.message.from_wire(question).question[0]
        made = response(question, *([f"{NAME} 5 IN A 10.0.0.1"] if asked.rdtype == dns.rdatatype.A else []))
        if asked.rdtype == dns.rdatatype.SRV:
            made.answer = [record(f"_udp._udp.{NAME} 5 IN SRV 0 0 6 a.test.|0 0 7 b.test.")]
        made.additional = [record("a.test. 5 CH A unseen. 5005"), record("b.test. 5 CLASS99 A \\# 4 0a000009")]
        yield made.to_wire()

    server = serve(script)
    assert hosts(resolver(server).resolve()) == ["10.0.0.1"]
    assert resolver(server, port="udp").resolve().endpoints == ()


def test_truncation_is_followed_over_tcp(serve: Serve) -> None:
    answer = resolver(serve(truncated(PODS))).resolve()
    assert hosts(answer) == ["10.0.0.1", "10.0.0.2"]
    assert [lookup[3:] for lookup in answer.lookups] == [("UDP", "truncated"), ("TCP", "2 records")]


@pytest.mark.parametrize(
    ("over_tcp", "hint"),
    [
        (lambda question, over: [], "TCP did not work (EOF): allow DNS over TCP"),
        (lambda question, over: [b""], "TCP did not work (The DNS packet passed to from_wire() is too short.)"),
        (lambda question, over: [Reply(b"\x00", unframed=True)], "TCP did not work (EOF): allow DNS over TCP"),
        (lambda question, over: [Reply(b"\x00\x50" + question, unframed=True)], "TCP did not work (EOF)"),
        (lambda question, over: [question], "TCP did not work (A DNS query response does not respond to"),
    ],
)
def test_tcp_that_does_not_work(serve: Serve, over_tcp: Script, hint: str) -> None:
    sentence = failure(resolver(serve(truncated(over_tcp))))
    assert f"the answer is too large for UDP, and {hint}" in sentence


@pytest.mark.parametrize(
    ("over_tcp", "what"),
    [
        (answering(rcode=dns.rcode.SERVFAIL), "SERVFAIL"),
        (answering(f"{NAME} 5 IN A 10.0.0.1", flags=dns.flags.TC), "truncated"),
    ],
)
def test_a_part_of_the_set_is_not_believed(serve: Serve, over_tcp: Script, what: str) -> None:
    sentence = failure(resolver(serve(truncated(over_tcp)), lifetime=3600))
    assert f"too large for UDP, and over TCP the nameserver said {what}: " in sentence
    assert "4,090 A or 2,330 AAAA records" in sentence
    assert "NetworkPolicy" not in sentence


def test_a_record_in_a_wrong_place_over_tcp_is_one_sentence(serve: Serve) -> None:
    def script(question: bytes, over: Over) -> Iterable[bytes]:
        wire = bytearray(response(question).to_wire())
        wire[7], wire[11] = wire[11], wire[7]
        yield bytes(wire)

    assert "An OPT record occurred somewhere other than the additional" in failure(resolver(serve(truncated(script))))


def test_only_the_question_that_failed_explains_the_failure(serve: Serve) -> None:
    service = answering(f"_udp._udp.{NAME} 5 IN SRV 0 0 12000 {NAME}")

    def script(question: bytes, over: Over) -> Iterable[bytes | Reply]:
        if b"_udp" not in question:
            return answering(rcode=dns.rcode.SERVFAIL)(question, over)
        return truncated(service)(question, over)

    server = serve(script)
    assert failure(resolver(server, port="udp")) == f"cannot resolve {NAME} A at {server.nameserver}: SERVFAIL"


@pytest.mark.parametrize("trouble", [answering(rcode=dns.rcode.REFUSED), silence])
@pytest.mark.parametrize(("port", "prefix"), [(12000, ""), ("udp", "_udp._udp.")])
def test_a_short_name_needs_no_answer_for_the_root(serve: Serve, trouble: Script, port: int | str, prefix: str) -> None:
    # A cluster without a way to the outside has none: its upstream refuses, or is silent.
    def script(question: bytes, over: Over) -> Iterable[bytes | Reply]:
        is_ours = b"cluster" in question
        return answering(rcode=dns.rcode.NXDOMAIN)(question, over) if is_ours else trouble(question, over)

    asking = resolver(
        serve(script),
        "headless-udp",
        port,
        search=["ns.svc.cluster.local", "cluster.local"],
        lifetime=HASTY if trouble is silence else PATIENCE,
    )

    def resolved() -> DnsAnswer | None:
        # The lifetime that must run out is that of the search list's questions, too: a slow machine may use it up.
        try:
            return asking.resolve()
        except ResolverUnavailable as error:
            if "no answer" not in str(error):
                raise
            return None

    answer = until(resolved, "NXDOMAIN of each domain in time")
    assert answer.endpoints == ()
    assert list(dict.fromkeys(lookup.name for lookup in answer.lookups))[:3] == [
        f"{prefix}headless-udp.ns.svc.cluster.local.",
        f"{prefix}headless-udp.cluster.local.",
        f"{prefix}headless-udp.",
    ]


@pytest.mark.parametrize("trouble", [answering(rcode=dns.rcode.SERVFAIL), silence])
@pytest.mark.parametrize("which", [b"\x02ns", b"\x05other"])
def test_a_short_name_needs_the_answer_of_each_domain(serve: Serve, trouble: Script, which: bytes) -> None:
    def script(question: bytes, over: Over) -> Iterable[bytes | Reply]:
        return trouble(question, over) if which in question else answering(rcode=dns.rcode.NXDOMAIN)(question, over)

    lifetime = HASTY if trouble is silence else PATIENCE
    search = ["ns.cluster.local", "other.cluster.local"]
    failure(resolver(serve(script), "headless-udp", search=search, lifetime=lifetime))


@pytest.mark.parametrize(
    ("name", "ndots"), [("headless-udp.ns.svc.cluster.local", 5), ("headless-udp", 0), ("headless-udp.ns", 1)]
)
def test_a_name_that_may_be_whole_needs_its_answer(serve: Serve, name: str, ndots: int) -> None:
    def script(question: bytes, over: Over) -> Iterable[bytes | Reply]:
        is_searched = b"\x06search" in question
        return answering(rcode=dns.rcode.NXDOMAIN if is_searched else dns.rcode.SERVFAIL)(question, over)

    assert "SERVFAIL" in failure(resolver(serve(script), name, search=["search.test"], ndots=ndots))


def test_an_empty_search_list_is_none(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "host.example.test")
    answer = resolver(serve(answering(rcode=dns.rcode.NXDOMAIN)), "headless-udp", search=[]).resolve()
    assert [lookup.name for lookup in answer.lookups] == ["headless-udp."]


@pytest.fixture
def resolv_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is read in the place of /etc/resolv.conf."""
    path = tmp_path / "resolv.conf"
    read = dns.resolver.Resolver.read_resolv_conf
    monkeypatch.setattr(dns.resolver.Resolver, "read_resolv_conf", lambda self, name: read(self, str(path)))
    return path


@pytest.mark.parametrize(
    "content",
    [None, b"", b"search cluster.local\n", b"nameserver kube-dns\n", b"\xff\n", b"search a..b\nnameserver 10.0.0.1\n"],
)
def test_a_resolv_conf_that_is_of_no_use(resolv_conf: Path, content: bytes | None) -> None:
    if content is not None:
        resolv_conf.write_bytes(content)
    with pytest.raises(ResolverUnavailable, match=r"resolv\.conf .* --nameserver"):
        DnsResolver(Service("headless-udp")).resolve()


@pytest.mark.parametrize("nameserver", ["", "nameserver kube-dns", "nameserver 192.0.2.1"])
def test_a_nameserver_that_is_named_leaves_the_search_list(serve: Serve, resolv_conf: Path, nameserver: str) -> None:
    resolv_conf.write_text(f"{nameserver}\nsearch ns.svc.cluster.local\n")
    assert resolver(serve(PODS), "headless-udp").resolve().name == NAME


def test_port_0_is_no_port(serve: Serve) -> None:
    script = srv("0 0 0 a.test.", "0 0 7 b.test.", additional=["a.test. 5 IN A 10.0.0.1", "b.test. 5 IN A 10.0.0.2"])
    answer = resolver(serve(script), port="udp").resolve()
    assert (answer.endpoints, answer.refused) == ((Endpoint("10.0.0.2", 7),), (("10.0.0.1", "port 0"),))


def test_the_family_of_additional_records(serve: Serve) -> None:
    both = [f"{name}.test. 5 IN {kind}" for name in "ab" for kind in ("A 10.0.0.1", "AAAA fd00::1")]
    server = serve(srv("0 0 6 a.test.", "0 0 7 b.test.", additional=both))
    for family, host in ((Family.ANY, "10.0.0.1"), (Family.IPV4, "10.0.0.1"), (Family.IPV6, "fd00::1")):
        asked = DnsResolver(Service(NAME, "udp", family), nameserver=server.nameserver, lifetime=PATIENCE)
        assert set(asked.resolve().endpoints) == {Endpoint(host, 6), Endpoint(host, 7)}


def test_a_nameserver() -> None:
    assert parse_nameserver("10.96.0.10") == ("10.96.0.10", 53)
    assert parse_nameserver("10.96.0.10:5353") == ("10.96.0.10", 5353)
    assert parse_nameserver("fd00::a") == parse_nameserver("[fd00::a]") == ("fd00::a", 53)
    assert parse_nameserver("[fd00::a]:5353") == ("fd00::a", 5353)
    assert parse_nameserver("fe80::1%eth0") == ("fe80::1%eth0", 53)


@pytest.mark.parametrize(
    "text",
    ["", "kube-dns", "10.96.0.10:", "10.96.0.10:0", "10.96.0.10:65536", "[fd00::a", "[fd00::a]53", "[fd00::a]:", ":53"],
)
def test_no_nameserver(text: str) -> None:
    with pytest.raises(InvalidService, match="such as 10"):
        parse_nameserver(text)


@pytest.mark.parametrize(
    ("name", "port", "search"),
    [
        (".", 12000, ()),
        ("@", 12000, ()),
        ("a..b", 12000, ()),
        ("a" * 64, 12000, ()),
        ("\udcff", 12000, ()),
        (".".join(["a" * 61] * 4) + ".", "udp", ()),
        ("headless-udp", 12000, ["a..b"]),
    ],
)
def test_what_cannot_be_a_name(name: str, port: int | str, search: list[str]) -> None:
    with pytest.raises(InvalidService):
        DnsResolver(Service(name, port), nameserver="127.0.0.1", search=search)
