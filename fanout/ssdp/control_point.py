"""Looks for UPnP devices on the LAN, as a control point does: M-SEARCH, and the description of each that answers.

Needs aiohttp and defusedxml, of the extra `dlna`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fanout.errors import InvalidInput, SocketUnavailable
from fanout.net import errno_text, interfaces
from fanout.ssdp.core import message, urls
from fanout.ssdp.core.description import Description
from fanout.ssdp.pod_monitor import DescriptionReader, Unreadable
from fanout.version import __version__

SEARCH_TIME = 3.0
"""Seconds that answers are waited for."""
LOCATIONS_MAX = 1024
"""Descriptions that are looked at; a LAN has dozens."""
_HOPS = 2  # IP_MULTICAST_TTL that UDA 1.1 asks for (1.3.2)
_SENDS = (0.0, 0.3, 0.6)
"""When it is sent, in seconds: UDP loses, and so a search is sent more than once (UDA 1.1, 1.3.2)."""
_MARGIN = 0.8
"""Seconds for what a device that takes its time gets to know last, and says."""
_READS = 16
"""Descriptions that are read at once."""
_READ_TIME = 3.0
"""For all of them."""
_WORDS_MAX = 64
"""Types and devices that are remembered of one LOCATION."""
_Address = tuple[Any, ...]
_WHO = message.Headers(
    (("USER-AGENT", f"Linux UPnP/1.1 fanout/{__version__}"), ("CPFN.UPNP.ORG", f"fanout {__version__}"))
)


@dataclass(frozen=True, slots=True)
class Found:
    """One device: what answered, however often, with one LOCATION. Its texts are a stranger's."""

    udn: str
    """Of the root device, where it or the description said; in lower case."""
    location: str
    server: str
    friendly_name: str | None
    """None where its description could not be read."""
    device_type: str
    host: str
    """Where the answer came from."""


@dataclass(slots=True)
class _Candidate:
    """What was answered with one LOCATION."""

    server: str
    host: str
    reading: asyncio.Task[Description | None]
    udns: dict[str, None] = field(default_factory=dict)
    types: dict[str, None] = field(default_factory=dict)
    root: str = ""


def ways(interface: str | None = None) -> dict[str, str]:
    """Return the interfaces to search on, and the IPv4 address of each: that one, or all that are up but loopback.

    Raises `InvalidInput` where there is none of that name, and `SocketUnavailable` where it cannot be searched on.
    """
    if interface is None:
        found = {name: address for name in interfaces.names() if (address := _address(name, loopback=False))}
        found = {name: address for name, address in found.items() if interfaces.is_up(name)}
        if not found:
            raise SocketUnavailable("cannot search: no interface with an IPv4 address is up; name a device with --host")
        return found
    if not interface or interfaces.index(interface) is None:
        there = ", ".join(interfaces.names()) or "none that the system lists"
        raise InvalidInput(f"there is no interface {interface!r}: there are {there}")
    address = _address(interface, loopback=True)
    if address is None:
        raise SocketUnavailable(f"interface {interface} has no IPv4 address (ip address show {interface})")
    if not interfaces.is_up(interface):
        raise SocketUnavailable(f"interface {interface} is down: ip link set {interface} up")
    return {interface: address}


async def search(
    where: Mapping[str, str] | str, target: str = message.ALL, seconds: float = SEARCH_TIME
) -> list[Found]:
    """Return the devices that answer within `seconds`, by name; their descriptions may take three seconds more.

    The group is searched on some interfaces (`ways`), or a host is asked. Raises `InvalidInput` and
    `SocketUnavailable`.
    """
    if not message.is_target(target):
        raise InvalidInput(
            f"the search target must be ssdp:all, upnp:rootdevice, uuid:... or urn:...; got {target[:80]!r}"
        )
    mx = max(1, min(message.MX_MAX, int(seconds - _MARGIN)))
    data = message.search(target, mx, _WHO)
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        sockets = await _sockets(stack, where)
        reader = DescriptionReader(_READS)
        stack.push_async_callback(reader.close)
        answers = _Answers(reader)
        stack.push_async_callback(answers.stop)
        for opened, _ in sockets:
            loop.add_reader(opened, answers.read, opened)
            stack.callback(loop.remove_reader, opened)
        started = loop.time()
        for moment in _SENDS:
            await asyncio.sleep(started + moment - loop.time())
            _send(data, sockets)
        await asyncio.sleep(started + seconds - loop.time())
        return await answers.devices()


class _Answers:
    """Takes answers, and reads the descriptions that they name."""

    def __init__(self, reader: DescriptionReader) -> None:
        self._reader = reader
        self._candidates: dict[str, _Candidate] = {}

    def read(self, opened: socket.socket) -> None:
        """Take a datagram: one a turn, so that a flood of them does not keep the clock from being looked at."""
        try:
            data, address = opened.recvfrom(message.DATAGRAM_MAX + 1)
            advert, host = message.parse_answer(data), str(address[0])
        except (OSError, message.InvalidSsdp):
            return
        candidate = self._candidates.get(advert.location)
        if candidate is None:
            if len(self._candidates) >= LOCATIONS_MAX:
                return
            reading = asyncio.ensure_future(_read(self._reader, advert.location, host))
            candidate = self._candidates[advert.location] = _Candidate(
                advert.headers.get("SERVER") or "", host, reading
            )
        if len(candidate.udns) < _WORDS_MAX:
            candidate.udns[advert.udn] = None
        if ":device:" in advert.nt and len(candidate.types) < _WORDS_MAX:
            candidate.types[advert.nt] = None
        if advert.nt == message.ROOT_DEVICE:
            candidate.root = advert.udn

    async def devices(self) -> list[Found]:
        """Return what was found, once the descriptions are there or it has been long enough."""
        tasks = [candidate.reading for candidate in self._candidates.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=_READ_TIME)
        found = []
        for location, candidate in self._candidates.items():
            said = candidate.reading.result() if candidate.reading.done() else None
            if said is None:
                udn, name, kind = candidate.root or next(iter(candidate.udns)), None, next(iter(candidate.types), "")
            else:
                udn, name, kind = said.udn, said.friendly_name, said.device_type
            found.append(Found(udn, location, candidate.server, name, kind, candidate.host))
        return sorted(found, key=lambda each: (each.friendly_name is None, each.friendly_name or "", each.location))

    async def stop(self) -> None:
        """Stop reading."""
        tasks = [candidate.reading for candidate in self._candidates.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(reader: DescriptionReader, location: str, host: str) -> Description | None:
    """Return what the description at `location` says; None where it cannot be had, for whatever reason.

    Only from a literal address, which is not this host's loopback unless the answer came from there: whoever answers
    a search could name anything, and make this host ask for it.
    """
    url = urls.split(location)
    if url is None or (_is_loopback(url.origin.host) and not _is_loopback(host)):
        return None
    try:
        found = await reader.read(location)
    except Unreadable:
        return None
    return None if found is None else found[0]


async def _sockets(
    stack: contextlib.AsyncExitStack, where: Mapping[str, str] | str
) -> list[tuple[socket.socket, _Address]]:
    """Return what to send by, and where to."""
    if not isinstance(where, str):
        return [
            (_open(stack, socket.AF_INET, address, name), (message.GROUP, message.PORT))
            for name, address in where.items()
        ]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(where, message.PORT, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):  # gaierror is an OSError; a label that is too long is none of DNS
        raise InvalidInput(f"cannot resolve {where[:80]!r}: give an IP address, or a name in DNS") from None
    family, *_, address = found[0]
    return [(_open(stack, family), address)]


def _open(stack: contextlib.AsyncExitStack, family: int, address: str | None = None, name: str = "") -> socket.socket:
    try:
        opened = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        opened.setblocking(False)
        if address is not None:
            interfaces.send_groups_by(opened, interfaces.index(name) or 0, address, _HOPS)
            opened.bind((address, 0))
    except OSError as error:
        raise SocketUnavailable(f"cannot search{f' on {name}' if name else ''}: {error.strerror}") from None
    return opened


def _send(data: bytes, sockets: list[tuple[socket.socket, _Address]]) -> None:
    """Send to all; raise `SocketUnavailable` where nothing could be sent."""
    failure: OSError | None = None
    is_sent = False
    for opened, address in sockets:
        try:
            opened.sendto(data, address)
            is_sent = True
        except OSError as error:
            failure = error
    if failure is not None and not is_sent:
        raise SocketUnavailable(f"cannot send a search to {sockets[0][1][0]}: {errno_text.leaving(failure.errno or 0)}")


def _address(name: str, *, loopback: bool) -> str | None:
    return next(
        (
            str(each)
            for each in interfaces.addresses(name)
            if isinstance(each, ipaddress.IPv4Address) and (loopback or not each.is_loopback)
        ),
        None,
    )


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
