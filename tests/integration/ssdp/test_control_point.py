"""What a control point makes of answers; with devices on loopback: tests/integration/cli/commands/test_ssdp.py."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

from fanout.errors import InvalidInput
from fanout.ssdp import control_point
from fanout.ssdp.control_point import Found
from fanout.ssdp.core import message
from fanout.ssdp.core.message import ROOT_DEVICE, Advert, Headers
from fanout.ssdp.pod_monitor import Unreadable

SERVER = "urn:schemas-upnp-org:device:MediaServer:1"
HERE = "http://192.168.1.9:8200/rootDesc.xml"


class ListSocket:
    """In the place of a socket: what has arrived is a list."""

    def __init__(self, *arrived: bytes) -> None:
        self.arrived = deque(arrived)

    def recvfrom(self, *_: Any) -> tuple[bytes, Any]:
        return self.arrived.popleft(), ("192.168.1.9", 1900)


class Unreadables:
    """A reader for which no description is readable."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    async def read(self, url: str) -> None:
        self.urls.append(url)
        raise Unreadable("it is not a description")


def found(*adverts: Advert) -> tuple[list[Found], list[str]]:
    """Return what these answers amount to, and which descriptions were asked for."""
    reader: Any = Unreadables()

    async def search() -> list[Found]:
        answers = control_point._Answers(reader)
        opened: Any = ListSocket(*(message.answer(each, each.nt) for each in adverts), b"nonsense")
        while opened.arrived:
            answers.read(opened)
        try:
            return await answers.devices()
        finally:
            await answers.stop()

    return asyncio.run(search()), reader.urls


def test_answers_with_one_location_are_one_device_named_after_its_root() -> None:
    inner = Advert(SERVER, f"uuid:2::{SERVER}", HERE, headers=Headers([("SERVER", "a server")]))
    service = Advert("urn:schemas-upnp-org:service:ContentDirectory:1", "uuid:2::service", HERE)
    root = Advert(ROOT_DEVICE, f"UUID:1::{ROOT_DEVICE}", HERE)
    devices, urls = found(inner, service, root, inner)
    assert devices == [Found("uuid:1", HERE, "a server", "192.168.1.9", None, SERVER)]
    assert urls == [HERE]


@pytest.mark.parametrize("location", ["http://127.0.0.1:8200/d.xml", "http://media.local/d.xml", "nonsense"])
def test_no_answer_of_another_host_has_this_one_ask_itself_or_dns(location: str) -> None:
    devices, urls = found(Advert(ROOT_DEVICE, f"uuid:1::{ROOT_DEVICE}", location))
    assert [each.location for each in devices] == [location]
    assert urls == []


@pytest.mark.parametrize("target", ["", "two words", "é"])
def test_what_is_no_target_is_not_searched_for(target: str) -> None:
    with pytest.raises(InvalidInput, match="the search target must be ssdp:all"):
        asyncio.run(control_point.search("127.0.0.1", target))
