from __future__ import annotations

import errno
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import FanoutError, InvalidInput, InvalidService, MessageTooLarge
from fanout.model import (
    MAX_PAYLOAD,
    DropReason,
    Endpoint,
    Fault,
    Outcome,
    Report,
    Service,
    Status,
    Tally,
    check_payload,
    parse_literals,
    parse_port,
)

ADDRESSES = st.ip_addresses().filter(lambda address: not address.is_unspecified)
PORTS = st.integers(1, 65_535)
ENDPOINTS = st.builds(lambda address, port: Endpoint.parse(str(address), port), ADDRESSES, PORTS)


@given(ENDPOINTS)
def test_an_endpoint_is_parsed_from_its_own_text(endpoint: Endpoint) -> None:
    assert Endpoint.parse(str(endpoint)) == endpoint
    assert parse_literals(f"{endpoint},") == (endpoint,)


@given(st.text())
def test_any_text_is_an_endpoint_or_an_invalid_service(text: str) -> None:
    try:
        endpoint = Endpoint.parse(text)
    except InvalidService:
        return
    assert 1 <= endpoint.port <= 65_535
    ipaddress.ip_address(endpoint.host)


@given(st.text(), st.integers() | st.text())
def test_any_service_is_one_or_invalid(name: str, port: int | str) -> None:
    for parse in (lambda: parse_literals(name, port), lambda: Service(name, port)):
        sentence = ""
        try:
            parse()
        except InvalidService as error:
            sentence = str(error)
        assert "\n" not in sentence


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("10.0.0.7", ["10.0.0.7:12000"]),
        ("10.0.0.7,10.0.0.8:13000,[fd00::1]:12000", ["10.0.0.7:12000", "10.0.0.8:13000", "[fd00::1]:12000"]),
        ("fd00::1", ["[fd00::1]:12000"]),
        ("[fd00:0::1]", ["[fd00::1]:12000"]),
        (" 10.0.0.7 , 10.0.0.7:12000 ", ["10.0.0.7:12000"]),
        ("::ffff:10.0.0.7", ["10.0.0.7:12000"]),
    ],
)
def test_literals(text: str, endpoints: list[str]) -> None:
    assert [str(endpoint) for endpoint in parse_literals(text) or ()] == endpoints


@pytest.mark.parametrize("text", ["headless-udp", "headless-udp.ns.svc.cluster.local.", "a1.b2", "7seas"])
def test_a_name_is_not_a_literal(text: str) -> None:
    assert parse_literals(text) is None


@pytest.mark.parametrize(
    "text",
    ["10.0.0.999", "10.0.0", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:x", "10.0.0.1,pod", ",", "[fd00::1", "[fd00::1]x",
     "0.0.0.0", "::", "headless-udp:12000", "[fd00::1]:", "fe80::1%lo", "1.2.3.4:-1", "1.2.3.4:\uff11"],
)  # fmt: skip
def test_a_wrong_literal_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(InvalidService):
        parse_literals(text)


@pytest.mark.parametrize("port", ["udp", "udp-1", "1", "65535", 12000, "a", "x" * 15])
def test_ports_of_a_service(port: int | str) -> None:
    assert Service("headless-udp", port).port in (port, int(port) if str(port).isdigit() else port)


@pytest.mark.parametrize("port", ["", "UDP", "-udp", "udp-", "u--p", "x" * 16, "0", "65536", 0, -1, 65_536, "12 000"])
def test_ports_that_no_service_has(port: int | str) -> None:
    with pytest.raises(InvalidService):
        Service("headless-udp", port)
    if isinstance(port, int):
        with pytest.raises(InvalidService):
            parse_port(port)


def test_payloads() -> None:
    assert check_payload(bytearray(b"x")) == b"x"
    assert check_payload(memoryview(b"x")) == b"x"
    assert check_payload(bytes(MAX_PAYLOAD)) == bytes(MAX_PAYLOAD)
    with pytest.raises(MessageTooLarge, match="65,508"):
        check_payload(bytes(MAX_PAYLOAD + 1))
    with pytest.raises(InvalidInput, match="str"):
        check_payload("text")
    assert issubclass(MessageTooLarge, ValueError)
    assert issubclass(MessageTooLarge, FanoutError)


A, B, C = (Endpoint(f"10.0.0.{number}", 12000) for number in (1, 2, 3))


def test_a_report_has_one_outcome_a_pod() -> None:
    tally = Tally()
    first, second = (A, B), (B, C)
    tally.attempted(first, 5)
    tally.attempted(first, 5)
    tally.attempted(second, 7)
    tally.dropped([Fault(B, errno.EPERM), Fault(B, errno.EPERM)])
    tally.refused([Fault(C, errno.ECONNREFUSED)])
    report = Report(tally, age=1.5, stale=True)
    assert report.messages == 3
    assert report.size == 17
    assert report.endpoints == (A, B, C)
    assert report.outcomes == (
        Outcome(A, sent=2),
        Outcome(B, sent=1, dropped=2, errno=errno.EPERM),
        Outcome(C, sent=1, refused=1, errno=errno.ECONNREFUSED),
    )
    assert [outcome.status for outcome in report.outcomes] == [Status.SENT, Status.DROPPED, Status.REFUSED]
    assert [outcome.reason for outcome in report.outcomes] == [None, DropReason.NOT_PERMITTED, None]
    assert not report.complete
    assert repr(report) == "<Report of 3 message(s): 1 sent, 1 refused, 1 dropped; age 1.5 s, stale>"


@given(st.lists(st.tuples(st.lists(st.sampled_from([A, B, C]), unique=True), st.integers(0, 100))), st.data())
def test_every_attempt_is_sent_or_dropped(messages: list[tuple[list[Endpoint], int]], data: st.DataObject) -> None:
    tally = Tally()
    attempts = drops = 0
    for endpoints, size in messages:
        tally.attempted(tuple(endpoints), size)
        bad = data.draw(st.lists(st.sampled_from(endpoints), unique=True)) if endpoints else []
        tally.dropped(Fault(endpoint, errno.ENOBUFS) for endpoint in bad)
        attempts, drops = attempts + len(endpoints), drops + len(bad)
    outcomes = Report(tally, age=0, stale=False).outcomes
    assert sum(outcome.sent + outcome.dropped for outcome in outcomes) == attempts
    assert sum(outcome.dropped for outcome in outcomes) == drops
    assert len({outcome.endpoint for outcome in outcomes}) == len(outcomes)


def test_a_refusal_by_a_pod_that_left_is_told() -> None:
    tally = Tally()
    tally.attempted((A,), 1)
    tally.refused([Fault(B, errno.ECONNREFUSED)])
    assert Report(tally, age=0, stale=False).refused == (Outcome(B, refused=1, errno=errno.ECONNREFUSED),)
