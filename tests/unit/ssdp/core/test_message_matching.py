"""Which adverts answer a search, and as what."""

from __future__ import annotations

import pytest

from fanout.ssdp.core import message
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import Advert
from tests.support.adverts import advert_of, refused

UDN = "uuid:00000001-aaaa-bbbb-cccc-000000000000"
LOCATION = "http://10.60.0.11:8200/rootDesc.xml"
MEDIA_SERVER = "urn:schemas-upnp-org:device:MediaServer"


@pytest.mark.parametrize(
    ("target", "nt", "is_match"),
    [
        ("ssdp:all", "anything", True),
        ("upnp:rootdevice", "upnp:rootdevice", True),
        ("upnp:rootdevice", UDN, False),
        (UDN, UDN, True),
        (UDN.upper(), UDN, True),
        (UDN, UDN.upper(), True),
        (UDN, "upnp:rootdevice", False),
        (f"{UDN}0", UDN, False),
        (f"{MEDIA_SERVER}:1", f"{MEDIA_SERVER}:1", True),
        (f"{MEDIA_SERVER}:1", f"{MEDIA_SERVER}:3", True),
        (f"{MEDIA_SERVER}:4", f"{MEDIA_SERVER}:3", False),
        (f"{MEDIA_SERVER}:2", f"{MEDIA_SERVER}:10", True),
        (f"{MEDIA_SERVER}:1".replace("urn:schemas", "URN:Schemas"), f"{MEDIA_SERVER}:2", True),
        (f"{MEDIA_SERVER}:1".replace("Media", "media"), f"{MEDIA_SERVER}:2", False),
        (f"{MEDIA_SERVER}:1".replace("device", "service"), f"{MEDIA_SERVER}:2", False),
        (MEDIA_SERVER, f"{MEDIA_SERVER}:1", False),
        (f"{MEDIA_SERVER}:x", f"{MEDIA_SERVER}:x", True),
        (f"{MEDIA_SERVER}:", f"{MEDIA_SERVER}:1", False),
        ("ssdp:ALL", "upnp:rootdevice", False),
        ("roku:ecp", "roku:ecp", True),
    ],
)
def test_which_adverts_answer_a_search(target: str, nt: str, is_match: bool) -> None:
    assert message.matches(target, nt, UDN if nt.lower() == UDN else f"{UDN}::{nt}") is is_match


@pytest.mark.parametrize(
    ("nt", "target", "asked"),
    [
        (f"{MEDIA_SERVER}:2", f"{MEDIA_SERVER}:1", f"{MEDIA_SERVER}:1"),
        (f"{MEDIA_SERVER}:2", f"{MEDIA_SERVER}:2", f"{MEDIA_SERVER}:2"),
        (f"{MEDIA_SERVER}:2", message.ALL, f"{MEDIA_SERVER}:2"),
        (message.ROOT_DEVICE, message.ROOT_DEVICE, message.ROOT_DEVICE),
    ],
)
def test_an_answer_has_the_version_that_was_asked_for(nt: str, target: str, asked: str) -> None:
    """UDA 1.1, 1.3.2; its USN is of the same type as its ST (1.3.3)."""
    found = advert_of(message.answer(Advert(nt, f"{UDN}::{nt}", LOCATION), target))
    assert (found.nt, found.usn) == (asked, f"{UDN}::{asked}")


def test_the_udn_of_an_answer_is_spelled_as_the_device_spells_it() -> None:
    found = advert_of(message.answer(Advert(UDN.upper(), UDN.upper(), LOCATION), UDN))
    assert (found.nt, found.usn) == (UDN, UDN.upper())


@pytest.mark.parametrize("nt", [message.ROOT_DEVICE, UDN, f"{MEDIA_SERVER}:1"])
def test_an_answer_whose_st_is_all_is_of_what_its_usn_says(nt: str) -> None:
    usn = UDN if nt == UDN else f"{UDN}::{nt}"
    data = f"HTTP/1.1 200 OK\r\nST: ssdp:all\r\nLOCATION: {LOCATION}\r\nUSN: {usn}\r\n\r\n"
    found = advert_of(data.encode())
    assert (found.nt, found.usn) == (nt, usn)
    assert refused(data.replace("USN: ", "USN: a b").encode()) is (SsdpDrop.MALFORMED if nt == UDN else None)


def test_no_pattern_of_types_backtracks() -> None:
    """Far longer than one is read: one that does would not end here."""
    hostile = f"urn:{':1' * 500_000}"
    assert not message.matches(hostile, f"{hostile}x", hostile)
