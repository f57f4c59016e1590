"""Announcements of the pods' devices on the LAN, their repetition, and the devices that are announced now. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from fanout.ssdp.core import message, urls
from fanout.ssdp.core.message import Advert, NotifyKind
from fanout.ssdp.core.port_map import PortMap
from fanout.ssdp.core.registry import Device
from fanout.ssdp.core.stats import DeviceStats, HttpCounts

AGAIN = 0.2
"""Seconds after which an announcement is repeated: a datagram to a group may be lost (UDA 1.1, 1.2.2)."""


class Announce(NamedTuple):
    """Send a datagram to the group."""

    data: bytes


class Log(NamedTuple):
    """Write a line; its message refers to the values by name."""

    level: Literal["info", "warning"]
    message: str
    values: Mapping[str, str]


class Announcer:
    """Makes announcements of adverts that lead to the relay, and keeps what they amount to."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Announcements, by NTS."""
        self._locations: dict[str, str] = {}
        """The LOCATION of each device that is announced now, by UDN."""
        self._alive: set[tuple[str, str]] = set()
        """NT and USN of the adverts that were announced and not revoked since."""
        self._repeats: dict[tuple[str, str], tuple[float, bytes]] = {}
        """When to repeat which datagram, by NT and USN."""
        self._udns: set[str] = set()
        self.has_changed: bool = False
        """Whether `update` is to be called."""
        self._devices: list[tuple[str, str, str, int]] = []
        """UDN, pod, LOCATION and port of each device; port 0 where it has none."""

    def is_alive(self, advert: Advert) -> bool:
        """Whether an advert was announced and not revoked since; one without a port never was."""
        return (advert.nt, advert.usn) in self._alive

    def announce(self, kind: NotifyKind, pod: str, located: Advert, now: float) -> list[Announce | Log]:
        """Announce an advert now, and once more a moment later (`repeats`)."""
        key = located.nt, located.usn
        if kind is NotifyKind.BYEBYE:
            self._alive.discard(key)
        else:
            self._alive.add(key)
        data = message.notify(kind, located)
        self.counts[kind.value] += 1
        # Only the last announcement of an advert is repeated, and in the order of the announcements.
        self._repeats.pop(key, None)
        self._repeats[key] = now + AGAIN, data
        logged = self._device_changed(kind, pod, located) if located.nt == message.ROOT_DEVICE else None
        return [Announce(data)] if logged is None else [Announce(data), logged]

    def repeats(self, now: float) -> list[Announce | Log]:
        """Return the announcements to repeat."""
        due = [key for key, (when, _) in self._repeats.items() if when <= now]
        return [Announce(self._repeats.pop(key)[1]) for key in due]

    def update(self, devices: Iterable[Device], port_map: PortMap) -> None:
        """Record the devices for `devices`, which other threads may call."""
        self.has_changed = False
        found, udns = [], set()
        for device in devices:
            udns.add(device.udn)
            location = self._locations.get(device.udn)
            if location is not None:
                url = urls.split(device.location)
                port = None if url is None else port_map.known(url.origin)
                found.append((device.udn, device.pod, location, port or 0))
        self._devices = found
        for udn in self._udns - udns:
            port_map.left(udn)
        self._udns = udns

    def devices(self, names: Mapping[tuple[str, str], str], counts: HttpCounts) -> list[DeviceStats]:
        """Return the devices that are announced now; `names` are by pod and UDN."""
        return [
            DeviceStats(
                udn, pod, location, names.get((pod, udn), ""), counts.requests.get(port, 0), counts.bytes.get(port, 0)
            )
            for udn, pod, location, port in self._devices
        ]

    def _device_changed(self, kind: NotifyKind, pod: str, located: Advert) -> Log | None:
        """Return a line that says that a device is announced or gone; None if that was logged before."""
        udn, location = located.udn, located.location
        if kind is NotifyKind.BYEBYE:
            if self._locations.pop(udn, None) is None:
                return None
            return Log("info", "device_gone: %(udn)s of %(host)s", {"udn": udn, "host": pod})
        if self._locations.get(udn) == location:
            return None
        self._locations[udn] = location
        values = {"udn": udn, "host": pod, "location": location}
        return Log("info", "device_announced: %(udn)s of %(host)s is at %(location)s", values)
