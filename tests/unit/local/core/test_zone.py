"""The answers of the embedded nameserver, without a socket."""

from __future__ import annotations

import functools
import struct

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.local.core.zone import MAX_TCP_SIZE, MAX_UDP_SIZE, Pod, Zone, respond

SERVICE = "headless-udp.local.svc.cluster.local."
SRV_NAME = f"_udp._udp.{SERVICE}"
HEADER, OPT, A_RECORD = 12, 11, 16
QUESTION = len(SERVICE) + 1 + 4


@functools.cache
def zone(count: int) -> Zone:
    return Zone().with_pods(
        [Pod(f"statefulset-udp-server-{n}", f"127.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(count)]
    )


def ask(
    name: str, record_type: str = "A", *, pods: int = 2, edns: int | None = None, over_tcp: bool = False
) -> dns.message.Message:
    query = dns.message.make_query(name, record_type, use_edns=edns is not None, payload=edns)
    response = dns.message.from_wire(answer_to(query, pods=pods, edns=edns, over_tcp=over_tcp))
    assert query.is_response(response)
    assert (response.edns >= 0) == (edns is not None)
    return response


def answer_to(query: dns.message.Message, *, pods: int, edns: int | None, over_tcp: bool) -> bytes:
    wire = respond(query.to_wire(), zone(pods), over_tcp=over_tcp)
    assert wire is not None
    assert len(wire) <= (MAX_TCP_SIZE if over_tcp else min(max(edns or 512, 512), MAX_UDP_SIZE))
    return wire


def records(response: dns.message.Message, section: str = "ANSWER") -> list[str]:
    return [
        f"{rrset.name} {rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} {record}"
        for rrset in response.section_from_number(section)  # type: ignore[arg-type]
        for record in rrset
    ]


def is_truncated(response: dns.message.Message) -> bool:
    return bool(response.flags & dns.flags.TC)


def test_names_and_the_search_list_are_those_of_a_pod_of_its_namespace() -> None:
    zone = Zone("cache", "shop")
    assert zone.name == "cache.shop.svc.cluster.local"
    assert zone.search == ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local")


def test_the_service_answers_with_every_ready_pod() -> None:
    response = ask(SERVICE)
    assert records(response) == [f"{SERVICE} 5 A 127.0.0.0", f"{SERVICE} 5 A 127.0.0.1"]
    assert response.flags & dns.flags.AA
    assert not is_truncated(response)


def test_the_owner_has_the_case_of_the_question() -> None:
    name = "HeadLess-UDP.local.SVC.cluster.LOCAL."
    assert records(ask(name, pods=1)) == [f"{name} 5 A 127.0.0.0"]


@pytest.mark.parametrize(
    ("name", "record_type", "pods"),
    [
        (SERVICE, "A", 0),
        (SERVICE, "AAAA", 0),
        (SRV_NAME, "SRV", 0),
        (f"statefulset-udp-server-2.{SERVICE}", "A", 2),
        (f"_tcp._tcp.{SERVICE}", "SRV", 2),
        (f"_udp._tcp.{SERVICE}", "SRV", 2),
        (f"a._udp._udp.{SERVICE}", "SRV", 2),
        ("other.local.svc.cluster.local.", "A", 2),
        ("headless-udp.other.svc.cluster.local.", "A", 2),
        ("other.svc.cluster.local.", "A", 2),
        ("headless-udp.svc.cluster.local.", "A", 2),
        ("headless-udp.local.pod.cluster.local.", "A", 2),
        ("headless-udp.cluster.local.", "A", 2),
    ],
)
def test_what_does_not_exist_is_nxdomain_with_soa(name: str, record_type: str, pods: int) -> None:
    response = ask(name, record_type, pods=pods)
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert not response.answer
    [soa] = records(response, "AUTHORITY")
    assert soa.startswith("cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. ")
    assert soa.endswith(" 5")


@pytest.mark.parametrize(
    ("name", "record_type"),
    [
        (SERVICE, "AAAA"),
        (SERVICE, "TXT"),
        (SERVICE, "ANY"),
        (SERVICE, "AXFR"),
        (SRV_NAME, "AAAA"),
        (f"statefulset-udp-server-0.{SERVICE}", "AAAA"),
        ("local.svc.cluster.local.", "A"),
        ("svc.cluster.local.", "A"),
        ("cluster.local.", "NS"),
        (SERVICE, "SOA"),
    ],
)
def test_other_types_and_the_names_between_are_empty(name: str, record_type: str) -> None:
    response = ask(name, record_type)
    assert response.rcode() == dns.rcode.NOERROR
    assert not response.answer
    assert len(records(response, "AUTHORITY")) == 1


def test_the_apex_has_an_soa_that_changes_with_the_pods() -> None:
    [before] = records(ask("cluster.local.", "SOA"))
    assert zone(1).with_pods([]).serial == zone(1).serial + 1
    assert f" {zone(1).serial} 7200 1800 86400 5" in before


@pytest.mark.parametrize("name", [".", "headless-udp.", "headless-udp.local.svc.", "notcluster.local.", "example.com."])
def test_names_outside_do_not_exist(name: str) -> None:
    response = ask(name)
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert not response.flags & dns.flags.AA
    assert not response.authority


def test_a_pod_has_a_name_of_its_own_while_it_is_ready() -> None:
    name = f"statefulset-udp-server-1.{SERVICE}"
    assert records(ask(name)) == [f"{name} 5 A 127.0.0.1"]
    assert records(ask(name, "SRV")) == [f"{name} 5 SRV 0 100 12000 {name}"]


@pytest.mark.parametrize("name", [SRV_NAME, f"udp.UDP.{SERVICE}", SERVICE])
def test_the_named_port_answers_srv_with_the_addresses(name: str) -> None:
    response = ask(name, "SRV", pods=3, edns=1232)
    pods = [f"statefulset-udp-server-{n}.{SERVICE}" for n in range(3)]
    assert records(response) == [f"{name} 5 SRV 0 33 12000 {pod}" for pod in pods]
    assert records(response, "ADDITIONAL") == [f"{pod} 5 A 127.0.0.{n}" for n, pod in enumerate(pods)]


def test_weights_never_vanish() -> None:
    assert " SRV 0 1 12000 " in records(ask(SRV_NAME, "SRV", pods=250, over_tcp=True))[249]


def test_srv_leaves_out_addresses_before_records() -> None:
    response = ask(SRV_NAME, "SRV", pods=12, edns=1232)
    assert len(records(response)) == 12
    assert 0 < len(records(response, "ADDITIONAL")) < 12
    assert not is_truncated(response)
    response = ask(SRV_NAME, "SRV", pods=20, edns=1232)
    assert 0 < len(records(response)) < 20
    assert not records(response, "ADDITIONAL")
    assert is_truncated(response)


FITS_512 = (512 - HEADER - QUESTION) // A_RECORD
FITS_1232 = (1232 - HEADER - QUESTION - OPT) // A_RECORD
FITS_TCP = (65_535 - HEADER - QUESTION) // A_RECORD


@pytest.mark.parametrize(
    ("edns", "over_tcp", "fits"),
    [
        (None, False, FITS_512),
        (0, False, (512 - HEADER - QUESTION - OPT) // A_RECORD),
        (700, False, (700 - HEADER - QUESTION - OPT) // A_RECORD),
        (1232, False, FITS_1232),
        (4096, False, FITS_1232),
        (65_535, False, FITS_1232),
        (None, True, FITS_TCP),
    ],
)
def test_the_answer_is_truncated_exactly_where_it_does_not_fit(edns: int | None, over_tcp: bool, fits: int) -> None:
    query = dns.message.make_query(SERVICE, "A", use_edns=edns is not None, payload=edns)
    for more in (0, 1):
        # Its head tells, and is read much faster than four thousand records.
        flags, _, count = struct.unpack_from(
            "!HHH", answer_to(query, pods=fits + more, edns=edns, over_tcp=over_tcp), 2
        )
        assert (count, bool(flags & dns.flags.TC)) == (fits, bool(more))


def test_other_classes_are_refused() -> None:
    query = dns.message.make_query(SERVICE, "A", rdclass="CH")
    response = dns.message.from_wire(respond(query.to_wire(), zone(2)) or b"")
    assert response.rcode() == dns.rcode.REFUSED


def test_a_later_version_of_edns_is_refused() -> None:
    query = dns.message.make_query(SERVICE, "A", use_edns=1)
    response = dns.message.from_wire(respond(query.to_wire(), zone(2)) or b"")
    assert response.rcode() == dns.rcode.BADVERS
    assert response.edns == 0
    assert not response.answer


@pytest.mark.parametrize("opcode", [code for code in range(16) if code != dns.opcode.QUERY])
def test_other_operations_are_not_implemented(opcode: int) -> None:
    response = respond(struct.pack("!HHHHHH", 4711, opcode << 11 | dns.flags.RD, 0, 0, 0, 0), zone(2))
    assert response == struct.pack("!HHHHHH", 4711, 0x8000 | opcode << 11 | dns.flags.RD | 4, 0, 0, 0, 0)


@pytest.mark.parametrize("questions", [0, 2])
def test_one_question_is_wanted(questions: int) -> None:
    question = dns.message.make_query(SERVICE, "A", id=7).to_wire()[HEADER:]
    wire = struct.pack("!HHHHHH", 7, 0, questions, 0, 0, 0) + question * questions
    assert respond(wire, zone(2)) == struct.pack("!HHHHHH", 7, 0x8001, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "tail", [b"", b"\xff", b"\x03abc", b"\xc0\x0c\x00\x01\x00\x01", b"\x01a\x00\x00\x01\x00\x01more"]
)
def test_a_broken_question_is_a_format_error(tail: bytes) -> None:
    assert respond(struct.pack("!HHHHHH", 9, 0, 1, 0, 0, 0) + tail, zone(2)) == struct.pack(
        "!HHHHHH", 9, 0x8001, 0, 0, 0, 0
    )


def test_a_response_gets_silence() -> None:
    wire = respond(dns.message.make_query(SERVICE, "A").to_wire(), zone(2))
    assert wire is not None
    assert respond(wire, zone(2)) is None


def check(query: bytes, response: bytes | None, limit: int) -> None:
    """What holds for every response, whatever the query was."""
    if len(query) < HEADER or query[2] & 0x80:
        assert response is None
        return
    assert response is not None
    assert len(response) <= limit
    assert response[:2] == query[:2]
    assert response[2] & 0x80
    dns.message.from_wire(response)


@given(st.binary(max_size=600), st.booleans())
def test_garbage_never_raises(query: bytes, over_tcp: bool) -> None:
    check(query, respond(query, zone(40), over_tcp=over_tcp), MAX_TCP_SIZE if over_tcp else MAX_UDP_SIZE)


@given(st.data(), st.booleans())
def test_a_damaged_query_never_raises(data: st.DataObject, over_tcp: bool) -> None:
    name = data.draw(st.sampled_from([SERVICE, SRV_NAME, "cluster.local.", "a."]))
    edns = data.draw(st.sampled_from([None, 512, 4096]))
    query = bytearray(dns.message.make_query(name, "SRV", use_edns=edns is not None, payload=edns).to_wire())
    for _ in range(data.draw(st.integers(1, 4))):
        query[data.draw(st.integers(0, len(query) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(query)))
    wire = bytes(query[:cut]) if data.draw(st.booleans()) else bytes(query)
    check(wire, respond(wire, zone(40), over_tcp=over_tcp), MAX_TCP_SIZE if over_tcp else MAX_UDP_SIZE)


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["headless-udp", "local", "svc", "cluster", "_udp", "statefulset-udp-server-0"]),
            st.text(st.characters(codec="ascii", exclude_characters='.\\"'), min_size=1, max_size=63),
        ),
        max_size=8,
    ),
    st.sampled_from(["A", "AAAA", "SRV", "SOA", "ANY", "PTR"]),
    st.integers(0, 3),
)
def test_any_name_is_answered(labels: list[str], record_type: str, pods: int) -> None:
    encoded = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    question = encoded + struct.pack("!HH", dns.rdatatype.from_text(record_type), dns.rdataclass.IN)
    wire = struct.pack("!HHHHHH", 3, 0, 1, 0, 0, 0) + question
    try:
        dns.message.from_wire(wire)
    except dns.exception.DNSException:
        return  # longer than 255 bytes
    response = dns.message.from_wire(respond(wire, zone(pods)) or b"")
    assert response.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
    assert bool(response.answer) <= (response.rcode() == dns.rcode.NOERROR)
