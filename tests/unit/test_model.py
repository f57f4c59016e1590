from __future__ import annotations

import ipaddress
from dataclasses import asdict, fields
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import FanoutError, InvalidInput, InvalidService, MessageTooLarge
from fanout.model import (
    MAX_PAYLOAD,
    Endpoint,
    FramedMessage,
    Message,
    Question,
    Service,
    check_payload,
    parse_literals,
    parse_port,
    unmapped,
)

ADDRESSES = st.ip_addresses().filter(lambda address: not unmapped(address).is_unspecified)
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
     "0.0.0.0", "::", "::ffff:0.0.0.0", "pod:12000", "[fd00::1]:", "fe80::1%lo", "1.2.3.4:-1", "1.2.3.4:\uff11"],
)  # fmt: skip
def test_a_wrong_literal_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(InvalidService):
        parse_literals(text)


@pytest.mark.parametrize("port", ["udp", "udp-1", "1", "65535", 12000, "a", "x" * 15])
def test_ports_of_a_service(port: int | str) -> None:
    assert Service("headless-udp", port).port in (port, int(port) if str(port).isdigit() else port)


@pytest.mark.parametrize("port", [True, None, 1.5, b"1", "000000012000", "012000"])
def test_what_is_no_port_at_all(port: Any) -> None:
    with pytest.raises(InvalidService):
        parse_port(port)
    with pytest.raises(InvalidService):
        Service("headless-udp", port)


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


def test_a_service_is_written_as_its_name() -> None:
    assert str(Service("cache.shop", "udp")) == "cache.shop"


def test_a_literal_list_takes_the_port_as_a_number_in_any_spelling_and_no_name() -> None:
    assert parse_literals("10.0.0.7,10.0.0.8:1", "13000") == (Endpoint("10.0.0.7", 13_000), Endpoint("10.0.0.8", 1))
    with pytest.raises(InvalidService, match="port must be a number for a literal list of endpoints; got 'udp'"):
        parse_literals("10.0.0.7", "udp")


class Asked:
    """A question that keeps what is replied to it."""

    problem = ""

    def __init__(self) -> None:
        self.replies: list[bytes] = []

    @property
    def wants_reply(self) -> bool:
        return not self.replies

    def reply(self, payload: bytes) -> None:
        self.replies.append(payload)

    def confirm(self) -> None:
        pytest.fail("nobody confirms here")

    def fail(self, reason: str) -> None:
        pytest.fail(reason)

    release = confirm


def test_a_plain_message_has_no_gap_and_asks_for_no_reply() -> None:
    message = Message(b"x", Endpoint("10.0.0.7", 1), 0.0)
    assert (message.gap, message.question, message.wants_reply) == (0, None, False)
    with pytest.raises(InvalidInput, match="cannot reply: the message is not a query"):
        message.reply(b"y")


def test_the_reply_to_a_query_goes_to_who_asks() -> None:
    asked = Asked()
    message = FramedMessage(b"x", Endpoint("10.0.0.7", 1), 0.0, question=asked)
    assert message.wants_reply
    message.reply(b"y")
    assert asked.replies == [b"y"]
    assert not message.wants_reply


def test_a_framed_message_has_the_fields_of_all_messages() -> None:
    source = Endpoint("10.0.0.7", 12000)
    framed = FramedMessage(b"x", source, 1.0, 2, cast(Question, object()))
    plain = Message(b"x", source, 1.0)
    assert asdict(framed) == asdict(plain)
    assert [field.name for field in fields(framed)] == ["payload", "source", "received_at"]
    assert (framed.gap, plain.gap, plain.question) == (2, 0, None)
