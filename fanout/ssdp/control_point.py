"""Searches the LAN for UPnP devices, as a control point does: M-SEARCH, then the description of each that answers.

Needs aiohttp and defusedxml, of the extra `dlna`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fanout import errno_text
from fanout.errors import InvalidInput, SocketUnavailable
from fanout.net import interfaces
from fanout.ssdp.core import message, urls
from fanout.ssdp.core.description import Description
from fanout.ssdp.pod_monitor import DescriptionReader, Unreadable
from fanout.version import __version__

SEARCH_TIME = 3.0
"""Seconds to wait for answers."""
LOCATIONS_MAX = 1024
"""Descriptions that are read; a LAN has dozens."""
_HOPS = 2  # IP_MULTICAST_TTL as UDA 1.1 wants it (1.3.2)
_SENDS = (0.0, 0.3, 0.6)
"""When the search is sent, in seconds: more than once, since UDP loses datagrams (UDA 1.1, 1.3.2)."""
_MARGIN = 0.8
"""Seconds for the last search and its answer to arrive, beyond MX."""
_READS = 16
"""Descriptions that are read at once."""
_READ_TIME = 3.0
"""Seconds to wait for all descriptions."""
_Address = tuple[Any, ...]
_SENDER = message.Headers(
    (("USER-AGENT", f"Linux UPnP/1.1 fanout/{__version__}"), ("CPFN.UPNP.ORG", f"fanout {__version__}"))
)


@dataclass(slots=True)
class Found:
    """One device: all answers with one LOCATION. Its texts are untrusted."""

    udn: str
    """That of the root device, if an answer or the description names it; in lower case."""
    location: str
    server: str
    host: str
    """Where the answer came from."""
    friendly_name: str | None = None
    """None where its description could not be read."""
    device_type: str = ""


def ways(interface: str | None = None) -> dict[str, str]:
    """Return the interfaces to search on, each with its IPv4 address: that one, or all that are up except loopback.

    Raises `InvalidInput` if no interface has that name, and `SocketUnavailable` if it cannot be used.
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
    """Return the devices that answer within `seconds`, by name; reading descriptions may take three seconds more.

    The search goes to the group on some interfaces (`ways`), or to one host. Raises `InvalidInput` and
    `SocketUnavailable`.
    """
    if not message.is_target(target):
        raise InvalidInput(
            f"the search target must be ssdp:all, upnp:rootdevice, uuid:... or urn:...; got {target[:80]!r}"
        )
    mx = max(1, min(message.MX_MAX, int(seconds - _MARGIN)))
    data = message.search(target, mx, _SENDER)
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        sockets = await _sockets(stack, where)
        answers = _Answers(DescriptionReader(_READS))
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
        self._found: dict[str, Found] = {}
        """By LOCATION."""
        self._readings: dict[str, asyncio.Task[Description | None]] = {}

    def read(self, opened: socket.socket) -> None:
        """Take one datagram a turn of the event loop, so that a flood of them cannot stop the clock."""
        try:
            data, address = opened.recvfrom(message.DATAGRAM_MAX + 1)
            advert = message.parse_answer(data)
        except (OSError, message.InvalidSsdp):
            return
        found = self._found.get(advert.location)
        if found is None:
            if len(self._found) >= LOCATIONS_MAX:
                return
            found = Found(advert.udn, advert.location, advert.headers.get("SERVER") or "", str(address[0]))
            self._found[found.location] = found
            self._readings[found.location] = asyncio.ensure_future(_read(self._reader, found.location, found.host))
        if advert.nt == message.ROOT_DEVICE:
            found.udn = advert.udn
        elif ":device:" in advert.nt and not found.device_type:
            found.device_type = advert.nt

    async def devices(self) -> list[Found]:
        """Return what was found, once all descriptions are read or `_READ_TIME` is over."""
        if self._readings:
            await asyncio.wait([*self._readings.values()], timeout=_READ_TIME)
        for location, reading in self._readings.items():
            said = reading.result() if reading.done() else None
            if said is not None:
                found = self._found[location]
                found.udn, found.friendly_name, found.device_type = said.udn, said.friendly_name, said.device_type
        return sorted(
            self._found.values(), key=lambda each: (each.friendly_name is None, each.friendly_name or "", each.location)
        )

    async def stop(self) -> None:
        """Stop reading."""
        for reading in self._readings.values():
            reading.cancel()
        await asyncio.gather(*self._readings.values(), return_exceptions=True)


async def _read(reader: DescriptionReader, location: str, host: str) -> Description | None:
    """Return the description at `location`; None where it cannot be read, for whatever reason.

    It is read only from a literal address, and from this host's loopback only if the answer came from there: whoever
    answers a search could name anything, and make this host request it.
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
    """Return the sockets to search with, and where each sends."""
    if not isinstance(where, str):
        return [
            (_open(stack, socket.AF_INET, address, name), (message.GROUP, message.PORT))
            for name, address in where.items()
        ]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(where, message.PORT, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):  # gaierror is an OSError; UnicodeError: a label is too long for DNS
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
    """Send to all; raise `SocketUnavailable` if nothing could be sent."""
    failures = []
    for opened, address in sockets:
        try:
            opened.sendto(data, address)
        except OSError as error:
            failures.append(error.errno or 0)
    if failures and len(failures) == len(sockets):
        raise SocketUnavailable(f"cannot send a search to {sockets[0][1][0]}: {errno_text.leaving(failures[-1])}")


def _address(name: str, *, loopback: bool) -> str | None:
    return next((str(each.ip) for each in interfaces.networks(name) if loopback or not each.is_loopback), None)


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
