"""Announcements as the LAN has them, their repetition, and what they amount to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fanout.ssdp.core import message
from fanout.ssdp.core.announcer import AGAIN, Announce, Announcer, Log
from fanout.ssdp.core.message import ROOT_DEVICE, Advert, NotifyKind
from fanout.ssdp.core.port_map import PortMap
from fanout.ssdp.core.registry import Device
from fanout.ssdp.core.stats import DeviceStats, HttpCounts
from fanout.ssdp.core.urls import Origin

POD, UDN = "10.60.0.11", "uuid:1"
THERE, HERE = f"http://{POD}:8200/d.xml", "http://192.168.1.2:28200/d.xml"
ROOT = Advert(ROOT_DEVICE, f"{UDN}::{ROOT_DEVICE}", HERE)
SERVICE = Advert("urn:x", f"{UDN}::urn:x", HERE)
DEVICE = Device(UDN, POD, THERE)


def test_what_is_said_is_said_again_a_moment_later_and_only_the_last_of_it() -> None:
    announcer = Announcer()
    alive, byebye = message.notify(NotifyKind.ALIVE, SERVICE), message.notify(NotifyKind.BYEBYE, SERVICE)
    assert announcer.announce(NotifyKind.ALIVE, POD, SERVICE, 1.0) == [Announce(alive)]
    assert announcer.is_alive(SERVICE)
    assert announcer.announce(NotifyKind.BYEBYE, POD, SERVICE, 1.1) == [Announce(byebye)]
    assert not announcer.is_alive(SERVICE)
    assert announcer.repeats(1.0 + AGAIN) == []
    assert announcer.repeats(1.1 + AGAIN) == [Announce(byebye)]
    assert announcer.repeats(9.0) == []
    assert announcer.counts == {"ssdp:alive": 1, "ssdp:byebye": 1}


def logged(announcer: Announcer, kind: NotifyKind, advert: Advert) -> str:
    """The name of the line that is written with an announcement; empty where there is none."""
    _, *lines = announcer.announce(kind, POD, advert, 0.0)
    return "".join(line.message.partition(":")[0] for line in lines if isinstance(line, Log))


def test_a_device_is_logged_once_where_it_can_be_found_and_once_when_it_cannot() -> None:
    announcer = Announcer()
    assert logged(announcer, NotifyKind.ALIVE, SERVICE) == "", "it is a part of a device"
    assert logged(announcer, NotifyKind.BYEBYE, ROOT) == "", "nobody found it"
    assert logged(announcer, NotifyKind.ALIVE, ROOT) == "device_announced"
    assert logged(announcer, NotifyKind.ALIVE, ROOT) == ""
    assert logged(announcer, NotifyKind.ALIVE, replace(ROOT, location="http://192.168.1.3/")) == "device_announced"
    assert logged(announcer, NotifyKind.BYEBYE, ROOT) == "device_gone"
    assert logged(announcer, NotifyKind.BYEBYE, ROOT) == ""


def test_a_device_is_listed_while_it_is_announced_with_what_its_port_has_carried() -> None:
    announcer, port_map = Announcer(), PortMap(28_200, 28_231)
    port = port_map.claim(Origin(POD, 8200), UDN)
    assert port is not None
    counts = HttpCounts(requests={port: 3}, bytes={port: 500})
    announcer.update([DEVICE], port_map)
    assert announcer.devices({}, counts) == [], "known, and not announced"
    announcer.announce(NotifyKind.ALIVE, POD, ROOT, 0.0)
    announcer.update([DEVICE], port_map)
    assert announcer.devices({(POD, UDN): "Films"}, counts) == [DeviceStats(UDN, POD, HERE, "Films", 3, 500)]
    announcer.update([], port_map)
    assert announcer.devices({}, counts) == []


@pytest.mark.parametrize("location", ["-", "http://media-0:8200/d.xml"])
def test_a_device_without_a_port_of_the_relay_has_carried_nothing(location: str) -> None:
    announcer = Announcer()
    announcer.announce(NotifyKind.ALIVE, POD, replace(ROOT, location=location), 0.0)
    announcer.update([DEVICE._replace(location=location)], PortMap(28_200, 28_231))
    (device,) = announcer.devices({}, HttpCounts(requests={28_200: 3}, bytes={28_200: 500}))
    assert (device.location, device.name, device.requests, device.bytes) == (location, "", 0, 0)
