"""The known devices of the pods, and what to announce of them on the LAN: adverts in, announcements out. Pure.

The rules:

* What a pod has is announced at once, again when it changes, and repeatedly before it expires.
* It is revoked when the pod says so or leaves the Service, and when nothing was heard of it until it expired.
* Of two pods with one UDN, the first one owns it. The others wait, and when the owner is gone the next one is announced
  in its place: byebye for all that was, then alive for all that is.
* What a device says by SSDP takes precedence: its description adds nothing then.
* Only adverts of pods that `pods` has named are accepted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from fanout.ssdp.core import message, urls
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import Advert, NotifyKind

ADVERTS_MAX = 256
"""Adverts of one pod."""
UDNS_MAX = 64
"""Devices of one pod, embedded ones included."""
MAX_AGE_MIN = 120
"""Least seconds that an advert is valid: a pod is searched every half minute, and a search may be lost."""
REPEAT_PART = 0.4
"""The part of its max-age after which an advert is repeated, at most: UDA 1.1 (1.2.2) wants less than half."""
REPEAT_MOST = 900.0
CHANGES_APART = 1.0
"""Least seconds between two announcements of an advert that changes."""
_CONFLICTS_MAX = 64


class Announcement(NamedTuple):
    """What to send on the LAN."""

    kind: NotifyKind
    pod: str
    advert: Advert
    """As the pod sent it: its LOCATION leads to the pod."""


class Conflict(NamedTuple):
    """A pod has a UDN that another pod owns."""

    udn: str
    pod: str
    owner: str


class Device(NamedTuple):
    """A device that is announced now."""

    udn: str
    pod: str
    location: str


@dataclass(slots=True)
class _KnownAdvert:
    advert: Advert
    content: tuple[object, ...]
    """What distinguishes it from other adverts: not its DATE, nor the order of its headers."""
    expires: float
    announced_at: float = -math.inf
    is_changed: bool = False
    """Whether it has changed since it was announced."""


@dataclass(slots=True, eq=False)
class _KnownDevice:
    """One UDN of one pod."""

    udn: str
    pod: str
    adverts: dict[tuple[str, str], _KnownAdvert] = field(default_factory=dict)
    speaks: bool = False
    """Whether it has announced itself or answered a search."""
    repeat_at: float = math.inf


@dataclass(slots=True)
class _Pod:
    devices: dict[str, _KnownDevice] = field(default_factory=dict)
    speaks: bool = False


class Registry:
    """Knows the devices of all pods. Not thread-safe.

    `dropped` counts what is not kept; `jitter` returns random numbers from 0 to 1. At any time, what was announced as
    alive and not revoked since is what the owners of all UDNs have.
    """

    def __init__(self, dropped: Counter[SsdpDrop], jitter: Callable[[], float]) -> None:
        self._dropped = dropped
        self._jitter = jitter
        self._pods: dict[str, _Pod] = {}
        self._by_udn: dict[str, list[_KnownDevice]] = {}
        """The owner first, then those that wait, in the order in which they appeared."""
        self._conflicts: list[Conflict] = []
        self._wake = math.inf
        """When `due` has something to do."""
        self._is_over = False

    @property
    def devices(self) -> list[Device]:
        """The devices that are announced now."""
        return [Device(owner.udn, owner.pod, _location(owner)) for owner in self._owners()]

    def is_owner(self, pod: str, udn: str) -> bool:
        """Whether that pod owns that UDN: its device is the one that is announced."""
        return udn in self._by_udn and self._by_udn[udn][0].pod == pod

    def speaks(self, pod: str) -> bool:
        """Whether a pod has announced a device or answered a search since it joined."""
        return pod in self._pods and self._pods[pod].speaks

    def take_conflicts(self) -> list[Conflict]:
        """Return which pods appeared with a UDN that another owns, since the last call."""
        conflicts, self._conflicts = self._conflicts, []
        return conflicts

    def answers(self, target: str, pods: Collection[str] | None) -> list[tuple[str, Advert]]:
        """Return the adverts that answer a search, each with its pod, of these pods or of all."""
        return [
            (owner.pod, known.advert)
            for owner in self._owners()
            if pods is None or owner.pod in pods
            for known in owner.adverts.values()
            if message.matches(target, known.advert.nt, known.advert.usn)
        ]

    def pods(self, hosts: Collection[str], now: float) -> list[Announcement]:
        """Record which pods the Service has; none any more after `farewell`."""
        if self._is_over:
            return []
        gone = self._pods.keys() - set(hosts)
        left = sorted({udn for pod in gone for udn in self._pods[pod].devices})
        for pod in gone:
            del self._pods[pod]
        for pod in sorted(set(hosts) - self._pods.keys()):
            self._pods[pod] = _Pod()
        return [each for udn in left for each in self._settle(udn, now)]

    def heard(self, pod: str, advert: Advert, now: float, *, from_description: bool = False) -> list[Announcement]:
        """Take an advert of an answer or an `ssdp:alive` of a pod, or one that follows from its description."""
        about = self._pods.get(pod)
        if about is None:
            return []
        about.speaks |= not from_description
        if advert.max_age < MAX_AGE_MIN:
            advert = replace(advert, max_age=MAX_AGE_MIN)
        device = about.devices.get(advert.udn) or _KnownDevice(advert.udn, pod)
        key, content = _key(advert), _content(advert)
        known = device.adverts.get(key) or _higher_version(device, advert)
        if from_description and device.speaks:
            if known is not None:
                known.expires = max(known.expires, now + known.advert.max_age)
            return []
        device.speaks |= not from_description
        if known is None:
            if not self._has_room(about, device):
                return []
            known = device.adverts[key] = _KnownAdvert(advert, content, now + advert.max_age, is_changed=True)
        elif urls.at(pod, known.advert.location) and not urls.at(pod, advert.location):
            return []  # it also says where it is found on loopback, or on a network of its own
        else:
            known.is_changed |= content != known.content
            if (advert.nt, advert.usn) != (known.advert.nt, known.advert.usn):
                # A device of version 2 is also searched for as version 1, and answers as such.
                advert = replace(advert, nt=known.advert.nt, usn=known.advert.usn)
            known.advert, known.content, known.expires = advert, content, now + advert.max_age
        self._wake = min(self._wake, known.expires)
        return self._changed(device, known, NotifyKind.ALIVE, known.advert, now) if known.is_changed else []

    def described(self, pod: str, adverts: Collection[Advert], now: float) -> list[Announcement]:
        """Take all adverts of one description: those that are no longer in it are revoked."""
        about = self._pods.get(pod)
        if about is None:
            return []
        changes = []
        kept, locations = {_key(advert) for advert in adverts}, {advert.location for advert in adverts}
        for device in list(about.devices.values()):
            if device.speaks:
                continue
            for key, known in device.adverts.items():
                if known.advert.location in locations and key not in kept:
                    known.expires = now
            changes += self._settle(device.udn, now)
        return [*changes, *(each for advert in adverts for each in self.heard(pod, advert, now, from_description=True))]

    def updated(self, pod: str, advert: Advert, now: float) -> list[Announcement]:
        """Take an `ssdp:update`: a device of the pod is about to change its BOOTID (UDA 1.1, 1.2.4)."""
        device = self._pods[pod].devices.get(advert.udn) if pod in self._pods else None
        known = None if device is None else device.adverts.get(_key(advert))
        if device is None or known is None:
            return self.heard(pod, advert, now)
        self._pods[pod].speaks = device.speaks = True
        boot_id, headers = _boot_id(advert), known.advert.headers.without("NEXTBOOTID.UPNP.ORG")
        if boot_id:
            headers = headers.with_("BOOTID.UPNP.ORG", boot_id)
        known.advert = replace(known.advert, location=advert.location, headers=headers)
        known.content = _content(known.advert)
        known.is_changed = True
        return self._changed(device, known, NotifyKind.UPDATE, advert, now)

    def left(self, pod: str, advert: Advert, now: float) -> list[Announcement]:
        """Take an `ssdp:byebye`."""
        device = self._pods[pod].devices.get(advert.udn) if pod in self._pods else None
        known = None if device is None else device.adverts.pop(_key(advert), None)
        if device is None or known is None:
            return []
        self._pods[pod].speaks = True
        announcements = [Announcement(NotifyKind.BYEBYE, pod, known.advert)] if self.is_owner(pod, device.udn) else []
        return [*announcements, *self._settle(device.udn, now)]

    def due(self, now: float) -> list[Announcement]:
        """Return what to repeat now, and what to revoke because it has expired."""
        if now < self._wake:
            return []
        announcements = [each for udn in list(self._by_udn) for each in self._settle(udn, now)]
        for owner in self._owners():
            repeated = list(owner.adverts.values())
            if now < owner.repeat_at:
                repeated = [known for known in repeated if _is_late(known, now)]
            else:
                owner.repeat_at = now + self._interval(owner)
            announcements += [self._alive(owner, known, now) for known in repeated]
        self._wake = min((_wake(device) for queue in self._by_udn.values() for device in queue), default=math.inf)
        return announcements

    def farewell(self) -> list[Announcement]:
        """Revoke everything, and announce nothing from now on."""
        announcements = self.pods((), math.inf)  # no pod is left, and each one's time is over
        self._wake, self._is_over = math.inf, True
        return announcements

    def _owners(self) -> Iterator[_KnownDevice]:
        return (queue[0] for queue in self._by_udn.values())

    def _has_room(self, about: _Pod, device: _KnownDevice) -> bool:
        """Whether a pod may have one more advert of a device, which is recorded then if it is new."""
        is_new = device.udn not in about.devices
        adverts = sum(len(each.adverts) for each in about.devices.values())
        if adverts >= ADVERTS_MAX or (is_new and len(about.devices) >= UDNS_MAX):
            self._dropped[SsdpDrop.TOO_MANY_DEVICES] += 1
            return False
        if is_new:
            about.devices[device.udn] = device
            queue = self._by_udn.setdefault(device.udn, [])
            queue.append(device)
            if len(queue) > 1:
                self._dropped[SsdpDrop.UDN_TAKEN] += 1
                if len(self._conflicts) < _CONFLICTS_MAX:
                    self._conflicts.append(Conflict(device.udn, device.pod, queue[0].pod))
        return True

    def _changed(
        self, device: _KnownDevice, known: _KnownAdvert, kind: NotifyKind, advert: Advert, now: float
    ) -> list[Announcement]:
        """Announce what has changed: now, or in a moment where it changes all the time."""
        known.is_changed &= self.is_owner(device.pod, device.udn)
        if not known.is_changed:
            return []
        device.repeat_at = min(device.repeat_at, now + self._interval(device))
        self._wake = min(self._wake, device.repeat_at)
        if not _is_late(known, now):
            self._wake = min(self._wake, known.announced_at + CHANGES_APART)
            return []
        return [self._alive(device, known, now)._replace(kind=kind, advert=advert)]

    def _alive(self, device: _KnownDevice, known: _KnownAdvert, now: float) -> Announcement:
        known.announced_at, known.is_changed = now, False
        return Announcement(NotifyKind.ALIVE, device.pod, known.advert)

    def _interval(self, device: _KnownDevice) -> float:
        shortest = min(known.advert.max_age for known in device.adverts.values())
        return min(REPEAT_PART * shortest, REPEAT_MOST) * (0.8 + 0.2 * self._jitter())

    def _settle(self, udn: str, now: float) -> list[Announcement]:
        """Revoke what the owner of a UDN no longer has; where it has nothing left, the next one becomes the owner."""
        queue = self._by_udn[udn]
        owner = queue[0]
        before = owner.adverts
        for device in queue:
            about = self._pods.get(device.pod)
            device.adverts = {
                key: known for key, known in device.adverts.items() if about is not None and now < known.expires
            }
            if about is not None and not device.adverts:
                del about.devices[udn]
        announcements = [
            Announcement(NotifyKind.BYEBYE, owner.pod, known.advert)
            for key, known in before.items()
            if key not in owner.adverts
        ]
        living = [device for device in queue if device.adverts]
        if not living:
            del self._by_udn[udn]
            return announcements
        self._by_udn[udn] = living
        heir = living[0]
        if heir is not owner:
            heir.repeat_at = now + self._interval(heir)
            self._wake = min(self._wake, heir.repeat_at)
            announcements += [self._alive(heir, known, now) for known in heir.adverts.values()]
        return announcements


def _key(advert: Advert) -> tuple[str, str]:
    return advert.nt.lower(), advert.usn.lower()


def _higher_version(device: _KnownDevice, advert: Advert) -> _KnownAdvert | None:
    """Return the known advert of a higher version of the same type; None where there is none."""
    if advert.nt[:4].lower() != "urn:":
        return None
    adverts = device.adverts.values()
    return next((each for each in adverts if message.matches(advert.nt, each.advert.nt, each.advert.usn)), None)


def _content(advert: Advert) -> tuple[object, ...]:
    return advert.location, advert.max_age, _boot_id(advert), advert.headers.by_name.get("configid.upnp.org")


def _boot_id(advert: Advert) -> str | None:
    value_of = advert.headers.by_name.get
    return value_of("nextbootid.upnp.org") or value_of("bootid.upnp.org")


def _is_late(known: _KnownAdvert, now: float) -> bool:
    """Whether an advert has changed, and was last announced long enough ago."""
    return known.is_changed and now >= known.announced_at + CHANGES_APART


def _wake(device: _KnownDevice) -> float:
    """Return when there is something to do for a device."""
    late = (known.announced_at + CHANGES_APART for known in device.adverts.values() if known.is_changed)
    expiries = (known.expires for known in device.adverts.values())
    return min(device.repeat_at, *expiries, *late)


def _location(device: _KnownDevice) -> str:
    """Return where a device is found: the LOCATION of its root device, if there is one."""
    locations = {known.advert.nt: known.advert.location for known in device.adverts.values()}
    return locations.get(message.ROOT_DEVICE) or next(iter(locations.values()))
