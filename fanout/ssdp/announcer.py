"""Makes pods' devices devices of the LAN: their LOCATION leads to the relay, and what they have is announced there."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from fanout.ssdp.core import message, urls
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import Advert, NotifyKind
from fanout.ssdp.core.port_map import Origin, PortMap, open_first
from fanout.ssdp.core.registry import Announcement, Registry
from fanout.ssdp.core.stats import DeviceStats, HttpCounts
from fanout.ssdp.lan import Lan

log = logging.getLogger("fanout")

AGAIN = 0.2
"""Seconds after which an announcement is repeated: a datagram to a group may be lost (UDA 1.1, 1.2.2)."""
_COMPLAINTS_MAX = 64
_AUTHORITY = re.compile("[^/]*//[^/?#]*")


class Announcer:
    """Announces on one LAN. `listen` opens a port of the relay, if it is not open, and returns whether it could."""

    def __init__(
        self,
        lan: Lan,
        port_map: PortMap,
        registry: Registry,
        listen: Callable[[int], bool],
        drop: Callable[[SsdpDrop], None],
    ) -> None:
        self._lan = lan
        self._port_map = port_map
        self._registry = registry
        self._listen = listen
        self._drop = drop
        self._has_no_port: set[str] = set()
        self._shown: dict[str, str] = {}
        """The LOCATION of each device that is announced now, by UDN."""
        self._foreign: set[str] = set()
        self._alive: set[tuple[str, str]] = set()
        """What was announced and not revoked since."""
        self._again: dict[tuple[str, str], tuple[float, bytes]] = {}
        """What is to be sent again, and when, by what it is of."""
        self._udns: set[str] = set()
        self._has_news = False
        """Whether something was said since the last look at the devices."""
        self._devices: list[tuple[DeviceStats, int | None]] = []
        self.announcements: Counter[str] = Counter()
        self.foreign = 0

    def located(self, pod: str, advert: Advert) -> Advert | None:
        """Return an advert as the LAN has it; None where there is no port to reach it by.

        A LOCATION of another host than the pod stays as it is.
        """
        found = urls.location(advert.location)
        if found is None or found[0] != pod:
            self._say_foreign(pod, advert)
            return advert
        origin = Origin(*found)
        port = open_first(lambda: self._port_map.claim(origin, advert.udn), self._listen, self._port_map.refuse)
        if port is None:
            self._drop(SsdpDrop.NO_PORT)
            self._say_no_port(pod, advert.udn)
            return None
        path = _AUTHORITY.sub("", advert.location, count=1)
        return replace(advert, location=f"http://{self._lan.address}:{port}{path}")

    def announce(self, announcements: Iterable[Announcement], now: float) -> None:
        """Say it on the LAN, and once more a moment later (`tend`)."""
        for kind, pod, advert in announcements:
            key = advert.nt, advert.usn
            if kind is NotifyKind.BYEBYE and key not in self._alive:
                continue  # it was withheld for want of a port
            located = advert if kind is NotifyKind.BYEBYE else self.located(pod, advert)
            if located is None:
                continue
            if kind is NotifyKind.BYEBYE:
                self._alive.discard(key)
            else:
                self._alive.add(key)
            data = message.notify(kind, located)
            self._send(data)
            self.announcements[kind.value] += 1
            # Of what is alive after a byebye, or the other way round, only the last is repeated, and in this order.
            self._again.pop(key, None)
            self._again[key] = now + AGAIN, data
            if advert.nt == message.ROOT_DEVICE:
                self._show(kind, pod, located)
        self._has_news = True

    def tend(self, now: float) -> None:
        """Send again what was said a moment ago, and take note of the devices that there are."""
        if self._has_news:
            self._has_news = False
            self._take_stock()
        due = [key for key, (when, _) in self._again.items() if when <= now]
        for key in due:
            self._send(self._again.pop(key)[1])

    def _send(self, data: bytes) -> None:
        if self._lan.is_open and not self._lan.send(data):
            self._drop(SsdpDrop.NOT_SENT)

    def _take_stock(self) -> None:
        """Take note of the devices that there are, for `devices`, which other threads may call."""
        stock, there = [], self._registry.devices
        for device in there:
            shown = self._shown.get(device.udn)
            if shown is not None:
                found = urls.location(device.location)
                port = None if found is None else self._port_map.known(Origin(*found))
                stock.append((DeviceStats(device.udn, device.pod, shown), port))
        self._devices = stock
        udns = {device.udn for device in there}
        for udn in self._udns - udns:
            self._port_map.left(udn)
        self._udns = udns

    def devices(self, names: Mapping[tuple[str, str], str], counts: HttpCounts) -> list[DeviceStats]:
        """Return the devices that are announced now."""
        return [
            replace(
                device,
                name=names.get((device.pod, device.udn), ""),
                requests=0 if port is None else counts.requests.get(port, 0),
                bytes=0 if port is None else counts.bytes.get(port, 0),
            )
            for device, port in self._devices
        ]

    def _show(self, kind: NotifyKind, pod: str, advert: Advert) -> None:
        """Say in the log that a device can be found, or no more."""
        udn = advert.udn
        if kind is NotifyKind.BYEBYE:
            if self._shown.pop(udn, None) is not None:
                log.info("device_gone: %(udn)s of %(host)s", {"udn": udn, "host": pod})
        elif self._shown.get(udn) != advert.location:
            self._shown[udn] = advert.location
            values = {"udn": udn, "host": pod, "location": advert.location}
            log.info("device_announced: %(udn)s of %(host)s is found at %(location)s", values)

    def _say_foreign(self, pod: str, advert: Advert) -> None:
        self.foreign += 1
        if advert.location not in self._foreign and len(self._foreign) < _COMPLAINTS_MAX:
            self._foreign.add(advert.location)
            log.warning(
                "location_foreign: %(udn)s of %(host)s says that it is found at %(location)s, which is not that "
                "address: passed on unchanged",
                {"udn": advert.udn, "host": pod, "location": advert.location},
            )

    def _say_no_port(self, pod: str, udn: str) -> None:
        if udn not in self._has_no_port and len(self._has_no_port) < _COMPLAINTS_MAX:
            self._has_no_port.add(udn)
            reason = "all HTTP ports are taken: give more (--http-ports)"
            values = {"udn": udn, "host": pod, "reason": reason}
            log.warning("no_http_port: %(udn)s of %(host)s is not announced: %(reason)s", values)
