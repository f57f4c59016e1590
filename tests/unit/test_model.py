from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import FanoutError, InvalidInput, InvalidService, MessageTooLarge
from fanout.model import MAX_PAYLOAD, Endpoint, Service, check_payload, parse_literals, parse_port, unmapped

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
