"""Where the announcements of pods are listened to; their interfaces are sockets on loopback."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Iterable

import pytest

from fanout.errors import SocketUnavailable
from fanout.net import interfaces
from fanout.ssdp import pod_listener
from fanout.ssdp.core import message
from fanout.ssdp.core.message import ROOT_DEVICE, Advert, NotifyKind
from fanout.ssdp.core.responder import Action, OpenPort, Responder
from fanout.ssdp.pod_listener import PodListener
from tests.support.waiting import until_async

POD = "127.0.0.11"
WAYS = {POD: "pods0", "127.0.0.12": "pods1", "192.168.1.9": "lan0", "127.0.0.1": "lo"}
LOCATION = f"http://{POD}:8200/d.xml"


class Opened:
    """The sockets that were opened, by interface."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sockets: dict[str, socket.socket] = {}
        monkeypatch.setattr(pod_listener, "open_group", self._open)
        monkeypatch.setattr(interfaces, "route", lambda host: (WAYS[host], "127.0.0.1") if host in WAYS else None)

    @property
    def listening(self) -> set[str]:
        return {name for name, opened in self.sockets.items() if opened.fileno() >= 0}

    def _open(self, group: str, port: int, interface: str) -> socket.socket:
        assert (group, port) == (message.GROUP, message.PORT)
        if interface == "pods1":
            raise SocketUnavailable("cannot join the group: no")
        opened = self.sockets[interface] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.setblocking(False)
        opened.bind(("127.0.0.1", 0))
        return opened


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(monkeypatch)


def listener(actions: list[Action]) -> PodListener:
    def carry_out(each: Iterable[Action]) -> None:
        actions.extend(each)

    responder = Responder(range(28_200, 28_232), (), random.random)
    responder.pods_changed(frozenset({POD}), 0)
    return PodListener(responder, "lan0", carry_out)


def test_it_follows_the_interfaces_of_pods_but_the_lans_and_loopback(opened: Opened) -> None:
    async def run() -> None:
        made = listener([])
        made.follow(["192.168.1.9", "127.0.0.1", "10.9.9.9", "fd00::1"])
        assert opened.listening == set()
        made.follow([POD, "192.168.1.9"])
        first = opened.sockets["pods0"]
        made.follow([POD])
        assert opened.sockets["pods0"] is first, "it is not opened again"
        made.follow([])
        assert opened.listening == set()
        made.follow([POD])
        assert opened.listening == {"pods0"}
        made.close()
        assert opened.listening == set()

    asyncio.run(run())


def test_an_interface_that_cannot_be_listened_on_is_passed_over(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        made = listener([])
        made.follow(["127.0.0.12", POD])
        assert opened.listening == {"pods0"}
        made.close()

    with caplog.at_level(logging.DEBUG, "fanout"):
        asyncio.run(run())
    assert "pods_unheard: cannot join the group: no" in caplog.text


def test_what_a_pod_announces_is_carried_out(opened: Opened) -> None:
    async def run() -> None:
        actions: list[Action] = []
        made = listener(actions)
        made.follow([POD])
        data = message.notify(NotifyKind.ALIVE, Advert(ROOT_DEVICE, f"uuid:1::{ROOT_DEVICE}", LOCATION))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pod:
            pod.bind((POD, 0))
            pod.sendto(data, opened.sockets["pods0"].getsockname())
            await until_async(lambda: actions)
        assert [type(each) for each in actions] == [OpenPort], "the rest waits until the port is open"
        made.close()

    asyncio.run(run())
