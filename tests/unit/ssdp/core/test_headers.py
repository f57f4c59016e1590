"""What of a head is carried on, and how its parts are spelled, as RFC 9110 and 9112 ask of who is in between."""

from __future__ import annotations

import pytest

from fanout.ssdp.core import headers


def test_what_is_between_two_neighbours_alone_is_not_carried_on() -> None:
    said = [
        ("Host", "tv"),
        ("connection", "close, X-Own ,"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("x-own", "1"),
        ("SOAPAction", '"urn:x#Browse"'),
        ("Range", "bytes=0-"),
    ]
    assert headers.carried(said, "host") == [("SOAPAction", '"urn:x#Browse"'), ("Range", "bytes=0-")]
    assert headers.carried([("ETag", '"1"'), ("Age", "1")], *headers.TRANSFORMED) == [("Age", "1")]


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\x00", "a\x7f", "\x1b[31m"])
def test_a_value_with_control_characters_is_left_out(value: str) -> None:
    assert headers.carried([("A", value), ("B", "a\tb")]) == [("B", "a\tb")]


def test_what_is_not_utf8_in_a_value_is_replaced() -> None:
    latin = "Größe".encode("latin-1").decode("utf-8", "surrogateescape")
    assert headers.carried([("A", latin), ("B", "Größe")]) == [("A", "Gr\ufffd\ufffde"), ("B", "Größe")]


def test_the_relay_says_which_version_it_was_asked_by() -> None:
    assert headers.via((1, 0)) == ("Via", "1.0 fanout")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("/x", None),
        ("*", None),
        ("https://10.0.0.1/", None),
        ("http:/10.0.0.1/", None),
        ("http://10.0.0.1", ("10.0.0.1", "/")),
        ("http://10.0.0.1/?http://10.0.0.2/", ("10.0.0.1", "/?http://10.0.0.2/")),
    ],
)
def test_the_parts_of_a_target_in_absolute_form(raw: str, expected: tuple[str, str] | None) -> None:
    assert headers.absolute(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("/", "/"),
        ("/a b#c", "/a%20b"),
        ("/a%20b?x=%zz&y=[1]", "/a%20b?x=%zz&y=[1]"),
        ("/\xe4", "/%C3%A4"),
        ("/\udce4", "/%E4"),  # as it came in, of no UTF-8 (PEP 383)
        ("*", None),
        ("", None),
        ("http://10.0.0.1/", None),
    ],
)
def test_a_target_is_spelled_as_a_url_may_be(raw: str, expected: str | None) -> None:
    assert headers.target(raw) == expected


@pytest.mark.parametrize("authority", ["10.0.0.1", " 10.0.0.1:80 ", "10.0.0.1:", "[fd00::1]", "[fe80::1%lo]:80", "::1"])
def test_an_address_is_a_literal(authority: str) -> None:
    assert headers.is_literal(authority)


@pytest.mark.parametrize(
    "authority", ["", "tv", "tv:80", "10.0.0.1:x", "[fd00::1", "[fd00::1]x", "[fd00::1]:x", "10.0.0.256", "[tv]", ":80"]
)
def test_what_dns_would_have_to_be_asked_for_is_no_literal(authority: str) -> None:
    assert not headers.is_literal(authority)


@pytest.mark.parametrize(
    ("phrase", "carried"), [("Not Found", "Not Found"), ("", ""), (None, None), ("a\r\nb", None), ("\x1b", None)]
)
def test_the_words_behind_a_status_are_carried_where_they_can_be_printed(
    phrase: str | None, carried: str | None
) -> None:
    assert headers.reason(phrase) == carried
