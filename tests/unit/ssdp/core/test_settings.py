"""What the relay for media servers can be set to: ports, and where pods have their descriptions."""

from __future__ import annotations

import pytest

from fanout.errors import InvalidInput
from fanout.ssdp.core.settings import DESCRIPTIONS, HTTP_PORTS, PORTS_MAX, DescriptionPlace, parse_ports


def test_a_place_is_a_url_of_each_pod() -> None:
    place = DescriptionPlace.parse(DESCRIPTIONS[0])
    assert place == DescriptionPlace(8200, "/rootDesc.xml")
    assert place.url("10.60.0.11") == "http://10.60.0.11:8200/rootDesc.xml"
    assert place.url("fd00::1") == "http://[fd00::1]:8200/rootDesc.xml"


@pytest.mark.parametrize("text", ["", "8200", "/d.xml", "0/d.xml", "65536/d.xml", "8200/a b", "8200/#x", "8200/ä", 7])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"a description must be PORT/PATH such as 8200/rootDesc.xml, .*; got "):
        DescriptionPlace.parse(text)


def test_ports_are_a_range_or_one() -> None:
    assert parse_ports(HTTP_PORTS) == range(28_200, 28_232)
    assert parse_ports("1") == range(1, 2)
    assert len(parse_ports(f"1-{PORTS_MAX}")) == PORTS_MAX


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "ports must be FIRST-LAST from 1 to 65535 such as 28200-28231, or one port; got "),
        ("0-5", "ports must be FIRST-LAST from 1 to 65535 such as 28200-28231, or one port; got "),
        ("1-65536", "ports must be FIRST-LAST from 1 to 65535 such as 28200-28231, or one port; got "),
        ("1-", "ports must be FIRST-LAST from 1 to 65535 such as 28200-28231, or one port; got "),
        (None, "ports must be FIRST-LAST from 1 to 65535 such as 28200-28231, or one port; got "),
        ("9-8", "the range .9-8. must ascend: write 8-9"),
        (f"1-{PORTS_MAX + 1}", "ports must be at most 1,024; got 1,025"),
    ],
)
def test_what_is_no_range_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse_ports(text)
