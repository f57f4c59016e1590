"""Whatever a nameserver says, and whatever it is asked for: an answer, or an error of fanout's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import dns.flags
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.discovery.dns import DnsResolver, parse_nameserver
from fanout.errors import FanoutError, ResolverUnavailable
from fanout.model import Service
from fanout.sender.sync import Sender
from tests.support.scripted_nameserver import Over, Reply, ScriptedServer, answering, mutated, srv
from tests.support.waiting import PATIENCE

NAME = "headless-udp.ns.svc.cluster.local."
PODS = answering(f"{NAME} 5 IN A 10.0.0.1|10.0.0.2")


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    """One nameserver for all examples of a property; each sets the script."""
    with ScriptedServer(PODS) as started:
        yield started


VALID = srv("0 0 6 a.test.", "0 0 7 b.test.", additional=["a.test. 5 IN A 10.0.0.1", "b.test. 5 IN AAAA fd00::1"])
BYTES = st.integers(0, 255)
GARBAGE: st.SearchStrategy[Callable[[bytes, bytes], bytes]] = st.one_of(
    st.binary(max_size=600).map(lambda garbage: lambda question, truth: garbage),
    st.binary(max_size=600).map(lambda garbage: lambda question, truth: truth[:2] + garbage),
    st.binary(max_size=600).map(lambda garbage: lambda question, truth: truth[: len(question)] + garbage),
    st.builds(
        lambda changes, kept: lambda question, truth: mutated(truth, changes, kept),
        st.lists(st.tuples(st.integers(0, 1000), BYTES), max_size=4),
        st.integers(0, 1000),
    ),
)


@given(over_udp=GARBAGE, over_tcp=GARBAGE, only_tcp=st.booleans(), port=st.sampled_from([12000, "udp"]))
def test_whatever_the_response_is(
    server: ScriptedServer,
    over_udp: Callable[[bytes, bytes], bytes],
    over_tcp: Callable[[bytes, bytes], bytes],
    only_tcp: bool,
    port: int | str,
) -> None:
    def script(question: bytes, over: Over) -> Iterable[bytes | Reply]:
        (truth,) = (VALID if port == "udp" else PODS)(question, over)
        assert isinstance(truth, bytes)
        if over == "TCP":
            yield over_tcp(question, truth)
        elif only_tcp:
            yield from answering(flags=dns.flags.TC)(question, over)
        else:
            yield over_udp(question, truth)
            # What is no response is waited behind: this one ends the waiting.
            yield from answering(rcode=dns.rcode.SERVFAIL)(question, over)

    server.script = script
    with suppress(ResolverUnavailable):
        answer = DnsResolver(Service(NAME, port), nameserver=server.nameserver, lifetime=PATIENCE).resolve()
        assert all(1 <= endpoint.port <= 65_535 for endpoint in answer.endpoints)


TEXTS = st.one_of(
    st.text(max_size=80),
    st.from_regex(r"[a-z0-9.:,%@_\[\]\\*-]{0,30}", fullmatch=True),
    st.lists(st.text("abü.\\", min_size=1, max_size=70), max_size=5).map(".".join),
    st.sampled_from(["headless-udp", "udp", "12000", "10.0.0.7", "[::1]:53", "127.0.0.1:53"]),
)


@given(service=TEXTS, port=TEXTS, nameserver=TEXTS)
def test_whatever_is_asked_for(server: ScriptedServer, service: str, port: str, nameserver: str) -> None:
    server.script = answering(rcode=dns.rcode.NXDOMAIN)
    with suppress(FanoutError):
        Sender(service, port, nameserver=nameserver).close()
    with suppress(FanoutError):
        parse_nameserver(nameserver)
    for asked in _services(service, port):
        with suppress(FanoutError):
            made = DnsResolver(asked, nameserver=server.nameserver, search=["ns.svc.cluster.local"], lifetime=PATIENCE)
            assert made.resolve().endpoints == ()


def _services(name: str, port: str) -> Iterator[Service]:
    for wanted in (12000, port):
        with suppress(FanoutError):
            yield Service(name, wanted)
