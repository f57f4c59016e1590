"""What is said on the LAN: the real catalogue and ports, a LAN that keeps what is sent."""

from __future__ import annotations

import logging
import math
from collections import Counter

import pytest

from fanout.ssdp.announcer import AGAIN, Announcer
from fanout.ssdp.core import message
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import ROOT_DEVICE, Advert, Notify, NotifyKind
from fanout.ssdp.core.port_map import Origin, PortMap
from fanout.ssdp.core.registry import Registry
from fanout.ssdp.core.stats import DeviceStats, HttpCounts
from fanout.ssdp.lan import Lan

POD, OTHER = "10.60.0.11", "10.60.0.12"
UDN = "uuid:1"


class Kept(Lan):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__("eth0")
        self.address = "192.168.1.2"
        self.sent: list[bytes] = []
        self.takes = True

    @property
    def is_open(self) -> bool:
        return True

    def send(self, data: bytes, client: tuple[str, int] = (message.GROUP, message.PORT)) -> bool:
        self.sent.append(data)
        return self.takes


class World:
    """A herald, and what it has to do with."""

    def __init__(self, first: int = 28_200, last: int = 28_231) -> None:
        self.dropped: Counter[SsdpDrop] = Counter()
        self.lan = Kept()
        self.port_map = PortMap(first, last)
        self.registry = Registry(self.dropped, lambda: 0.5)
        self.hosts = {POD, OTHER}
        self.taken: set[int] = set()
        self.listened: list[int] = []
        self.announcer = Announcer(self.lan, self.port_map, self.registry, self._listen, self._drop)
        self.registry.pods(self.hosts, 0)

    def _listen(self, port: int) -> bool:
        self.listened.append(port)
        return port not in self.taken

    def _drop(self, reason: SsdpDrop) -> None:
        self.dropped[reason] += 1

    def hear(self, pod: str, location: str, udn: str = UDN, now: float = 0) -> None:
        advert = Advert(ROOT_DEVICE, f"{udn}::{ROOT_DEVICE}", location)
        self.announcer.announce(self.registry.heard(pod, advert, now), now)

    def devices(
        self, names: dict[tuple[str, str], str] | None = None, counts: HttpCounts | None = None
    ) -> list[DeviceStats]:
        """What is announced now."""
        self.announcer.tend(-math.inf)
        return self.announcer.devices(names or {}, counts or HttpCounts())

    @property
    def said(self) -> list[tuple[NotifyKind, str]]:
        """What was sent, as its kinds and LOCATIONs; it is forgotten then."""
        said = []
        for data in self.lan.sent:
            notify = message.parse(data)
            assert isinstance(notify, Notify)
            said.append((notify.kind, notify.advert.location))
        self.lan.sent.clear()
        return said


def test_a_location_leads_to_the_relay_by_a_port_that_is_open() -> None:
    world = World()
    world.hear(POD, f"http://{POD}:8200/rootDesc.xml?x=1")
    port = world.port_map.known(Origin(POD, 8200))
    assert world.listened == [port]
    assert world.said == [(NotifyKind.ALIVE, f"http://192.168.1.2:{port}/rootDesc.xml?x=1")]
    (device,) = world.devices({(POD, UDN): "films"}, HttpCounts(requests={port or 0: 3}, bytes={port or 0: 5}))
    assert (device.udn, device.pod, device.name, device.requests, device.bytes) == (UDN, POD, "films", 3, 5)
    assert device.location == f"http://192.168.1.2:{port}/rootDesc.xml?x=1"


def test_ports_that_others_have_are_passed_over() -> None:
    world = World(100, 103)
    world.taken = {100, 101, 103}
    world.hear(POD, f"http://{POD}:8200/")
    assert world.said == [(NotifyKind.ALIVE, "http://192.168.1.2:102/")]


def test_without_a_port_a_device_is_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    world = World(100, 100)
    world.hear(POD, f"http://{POD}:8200/")
    with caplog.at_level(logging.WARNING, "fanout"):
        for now in (1, 2):
            world.hear(OTHER, f"http://{OTHER}:8200/{now}", "uuid:2", now)
    assert [where for _, where in world.said] == ["http://192.168.1.2:100/"]
    world.announcer.announce(world.registry.pods({POD}, 3), 3)
    assert world.said == [], "what was never alive is not revoked"
    assert world.dropped[SsdpDrop.NO_PORT] >= 1
    assert [record.msg.partition(":")[0] for record in caplog.records] == ["no_http_port"]
    assert [device.pod for device in world.devices()] == [POD]


@pytest.mark.parametrize(
    "location",
    [
        "http://media-0.media:8200/d.xml",
        f"http://{OTHER}:8200/",
        "http://192.168.1.9:80/d.xml",
        "http://[fd00::1]:80/d.xml",
        "ftp://x/",
        "-",
    ],
)
def test_a_location_of_somebody_else_is_passed_on_and_counted(location: str, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    with caplog.at_level(logging.WARNING, "fanout"):
        world.hear(POD, location)
        world.hear(POD, location, "uuid:2")
    assert world.said == [(NotifyKind.ALIVE, location)] * 2
    assert world.announcer.foreign == 2
    assert world.listened == []
    assert [record.msg.partition(":")[0] for record in caplog.records] == ["location_foreign"]


def test_what_is_said_is_said_again_and_of_each_only_the_last() -> None:
    world = World()
    world.hear(POD, f"http://{POD}:8200/")
    port = world.port_map.known(Origin(POD, 8200))
    world.announcer.tend(AGAIN / 2)
    assert len(world.said) == 1
    world.announcer.announce(world.registry.pods({OTHER}, AGAIN / 2), AGAIN / 2)
    assert world.said == [(NotifyKind.BYEBYE, "")]
    world.announcer.tend(AGAIN)
    assert world.said == []
    world.announcer.tend(2 * AGAIN)
    assert world.said == [(NotifyKind.BYEBYE, "")]
    world.announcer.tend(math.inf)
    assert world.said == []
    assert world.announcer.announcements == {"ssdp:alive": 1, "ssdp:byebye": 1}
    assert port is not None
    assert world.devices() == []


def test_a_pod_that_restarted_elsewhere_keeps_its_location() -> None:
    world = World()
    world.hear(POD, f"http://{POD}:8200/")
    (first,) = world.said
    world.port_map.gone(POD)
    world.announcer.announce(world.registry.pods({OTHER}, 1), 1)
    world.hear(OTHER, f"http://{OTHER}:8200/", now=2)
    assert world.said == [(NotifyKind.BYEBYE, ""), first]
    assert len(set(world.listened)) == 1


def test_what_the_kernel_does_not_take_is_counted() -> None:
    world = World()
    world.lan.takes = False
    world.hear(POD, f"http://{POD}:8200/")
    assert world.dropped == {SsdpDrop.NOT_SENT: 1}
