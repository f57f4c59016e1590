"""Which port of the relay leads to which HTTP server of a pod. Pure.

The rules:

* Each HTTP server in a LOCATION (an address and port of a pod) has one port of the relay, and each port leads to one
  server, so that relative URLs work unchanged. All devices (UDNs) of a server share its port.
* A port belongs to UDNs: a device that comes back elsewhere, as after a restart of its pod, keeps its port. Where
  devices that shared a port separate, the first of them keeps it.
* The port follows from a hash of that first UDN, so that it is the same after a restart of the relay, too, unless
  another device had it first.
* A pod's other HTTP servers, which only documents name, get ports that belong to the pod's own.
* Once all ports are taken, the device that has been away longest loses its port.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

from fanout.ssdp.core.urls import Origin

ORIGINS_MAX = 8
"""Servers of one pod that LOCATIONs name."""
OTHERS_MAX = 8
"""Other HTTP servers of one pod."""
UDNS_MAX = 64
"""Devices that are remembered for one port: those that claimed it last."""


@dataclass(slots=True, eq=False)
class _MappedPort:
    """One port, and the server that it leads to."""

    port: int
    origin: Origin | None
    """None while the pod is gone."""
    first: str
    """The UDN that keeps it where devices separate."""
    udns: dict[str, bool] = field(default_factory=dict)
    """Whether each of its devices is there, in the order of their last claims; empty for another server's port."""
    others: dict[int, _MappedPort] = field(default_factory=dict)
    """The ports of the pod's other servers that belong to this one, by the port in the pod."""
    owner: _MappedPort | None = None
    """The port that it belongs to, where it is one of the `others`."""


class PortMap:
    """The relay's HTTP ports, `first` to `last`. Not thread-safe."""

    def __init__(self, first: int, last: int) -> None:
        if not 1 <= first <= last <= 65_535:
            raise ValueError(f"ports must be 1 to 65535, ascending; got {first} to {last}")
        self._first = first
        self._count = last - first + 1
        self._by_port: dict[int, _MappedPort] = {}
        self._by_udn: dict[str, _MappedPort] = {}
        self._by_origin: dict[Origin, _MappedPort] = {}
        self._away: dict[int, None] = {}
        """Ports whose devices are gone, in the order in which they went."""
        self._refused: set[int] = set()

    def target(self, port: int) -> Origin | None:
        """Return the server that a port leads to; None while it is gone."""
        mapped = self._by_port.get(port)
        return None if mapped is None else mapped.origin

    def known(self, origin: Origin) -> int | None:
        """Return the port that leads to a server; None where there is none."""
        mapped = self._by_origin.get(origin)
        return None if mapped is None else mapped.port

    def claim(self, origin: Origin, udn: str) -> int | None:
        """Return the port for a device that is there now; None where none is left.

        Call it for each LOCATION that is announced or answered: what was claimed last is remembered longest.
        """
        mapped = self._by_origin.get(origin)
        if mapped is None or mapped.owner is not None:
            mapped = self._settle(origin, udn)
            if mapped is None:
                return None
        self._join(mapped, udn)
        return mapped.port

    def other(self, origin: Origin) -> int | None:
        """Return the port for a server that a document names; None where its pod has no port, or none is left."""
        known = self._by_origin.get(origin)
        if known is not None:
            return known.port
        owner = min(self._owners(origin.host), key=lambda mapped: mapped.first, default=None)
        if owner is None or self._others(origin.host) >= OTHERS_MAX:
            return None
        port = self._free(f"{owner.first} {origin.port}", owner)
        if port is None:
            return None
        mapped = _MappedPort(port, origin, owner.first, owner=owner)
        owner.others[origin.port] = self._by_port[port] = self._by_origin[origin] = mapped
        return port

    def refuse(self, port: int) -> None:
        """Give up a port that another program of this host has; its device gets another one at its next claim."""
        mapped = self._by_port.get(port)
        if mapped is not None:
            self._dissolve(mapped)
        if self._first <= port < self._first + self._count:
            self._refused.add(port)

    def left(self, udn: str) -> None:
        """Record that a device is gone while its pod is there, which can still be reached.

        Where ports are scarce, it loses its port like the devices of a pod that has left.
        """
        mapped = self._by_udn.get(udn)
        if mapped is not None:
            mapped.udns[udn] = False
            if not any(mapped.udns.values()):
                self._away.setdefault(mapped.port)

    def gone(self, host: str) -> None:
        """Record that a pod left: its devices keep their ports, which lead nowhere until the devices come back."""
        there = [mapped for origin, mapped in self._by_origin.items() if origin.host == host]
        for mapped in sorted(there, key=lambda mapped: mapped.owner is None):  # those of the others are lost first
            self._unlink(mapped)
            mapped.udns = dict.fromkeys(mapped.udns, False)
            self._away.setdefault(mapped.port)

    def _owners(self, host: str) -> list[_MappedPort]:
        return [mapped for origin, mapped in self._by_origin.items() if origin.host == host and mapped.owner is None]

    def _others(self, host: str) -> int:
        return sum(len(mapped.others) for mapped in self._owners(host))

    def _settle(self, origin: Origin, udn: str) -> _MappedPort | None:
        """Map the device's port, or a new one, to a server that has none."""
        had = self._by_udn.get(udn)
        if had is not None and had.origin is not None and had.first != udn:
            had = None  # it separates from the devices with which it shared a port
        is_more = had is None or had.origin is None or had.origin.host != origin.host
        if is_more and not self._may_have_more(origin.host):
            return None
        there = self._by_origin.get(origin)
        if there is not None:  # a document has named it before: the device keeps its own port nevertheless
            self._dissolve(there)
        if had is not None:
            self._move(had, origin)
            return had
        port = self._free(udn)
        if port is None:
            return None
        mapped = self._by_port[port] = self._by_origin[origin] = _MappedPort(port, origin, udn)
        return mapped

    def _may_have_more(self, host: str) -> bool:
        """Whether a pod may have one more port; if need be, one whose devices are gone is freed for it."""
        there = {mapped.port: mapped for mapped in self._owners(host)}
        if len(there) < ORIGINS_MAX:
            return True
        away = next((port for port in self._away if port in there), None)
        if away is None:
            return False
        self._dissolve(there[away])
        return True

    def _move(self, mapped: _MappedPort, origin: Origin) -> None:
        """Map a port to another server, and the others that belong to it to the same ports of that pod."""
        self._unlink(mapped)
        for other in mapped.others.values():
            self._unlink(other)
        others, mapped.others = mapped.others, {}
        mapped.origin, self._by_origin[origin] = origin, mapped
        for port, other in others.items():
            follows = Origin(origin.host, port)
            if follows in self._by_origin or self._others(origin.host) >= OTHERS_MAX:
                self._dissolve(other)
                continue
            mapped.others[port] = self._by_origin[follows] = other
            other.origin = follows
            self._away.pop(other.port, None)

    def _join(self, mapped: _MappedPort, udn: str) -> None:
        """Record that a device is there."""
        had = self._by_udn.get(udn)
        if had is not None:
            del had.udns[udn]
            if had is not mapped and not had.udns:
                self._dissolve(had)
            elif had is not mapped and had.first == udn:
                had.first = next(iter(had.udns))
        if len(mapped.udns) >= UDNS_MAX:
            oldest = next(each for each in mapped.udns if each != mapped.first)
            del mapped.udns[oldest], self._by_udn[oldest]
        mapped.udns[udn] = True
        self._by_udn[udn] = mapped
        self._away.pop(mapped.port, None)

    def _free(self, key: str, kept: _MappedPort | None = None) -> int | None:
        """Return a free port, the first one from the hash of `key` on; None where there is none.

        Where all are taken, one whose devices are gone is freed, but not `kept`.
        """
        start = zlib.crc32(key.encode("utf-8", "replace")) % self._count
        for step in range(self._count):
            port = self._first + (start + step) % self._count
            if port not in self._by_port and port not in self._refused:
                return port
        away = next((port for port in self._away if self._by_port[port] is not kept), None)
        if away is None:
            self._refused.clear()  # the programs that have them may be gone by the next time
            return None
        self._dissolve(self._by_port[away])
        return away

    def _unlink(self, mapped: _MappedPort) -> None:
        if mapped.origin is not None:
            del self._by_origin[mapped.origin]
            mapped.origin = None

    def _dissolve(self, mapped: _MappedPort) -> None:
        """Free a port."""
        for other in list(mapped.others.values()):
            self._dissolve(other)
        self._unlink(mapped)
        for udn in mapped.udns:
            del self._by_udn[udn]
        del self._by_port[mapped.port]
        self._away.pop(mapped.port, None)
        if mapped.owner is not None:
            others = mapped.owner.others
            mapped.owner.others = {port: other for port, other in others.items() if other is not mapped}
