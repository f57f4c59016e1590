"""Looks for UPnP devices on the LAN, as a control point does: M-SEARCH, and the description of each that answers.

Needs aiohttp and defusedxml, of the extra `dlna`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from yarl import URL

from fanout.errors import InvalidInput, SocketUnavailable
from fanout.net import explain, interfaces
from fanout.ssdp import description, message, rewrite
from fanout.version import __version__

SECONDS = 3.0
LOCATIONS_MAX = 1024
"""Descriptions that are looked at; a LAN has dozens."""
_HOPS = 2  # IP_MULTICAST_TTL that UDA 1.1 asks for (1.3.2)
_SENDS = (0.0, 0.3, 0.6)
"""When it is sent, in seconds: UDP loses, and so a search is sent more than once (UDA 1.1, 1.3.2)."""
_MARGIN = 0.8
"""Seconds for what a device that takes its time gets to know last, and says."""
_FETCH_SECONDS = 3.0
_FETCHES = 16
"""At once."""
_WORDS_MAX = 64
"""Types and devices that are remembered of one LOCATION."""
_MREQN = struct.Struct("=4s4si")  # struct ip_mreqn (man 7 ip)
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
class _Heard:
    """What was answered with one LOCATION."""

    server: str
    host: str
    fetch: asyncio.Task[description.Description | None]
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
            raise SocketUnavailable("no interface with an IPv4 address is up: name a device with --host")
        return found
    if not interface or interfaces.index(interface) is None:
        there = ", ".join(interfaces.names()) or "none that the system tells of"
        raise InvalidInput(f"there is no interface {interface!r}: there are {there}")
    address = _address(interface, loopback=True)
    if address is None:
        raise SocketUnavailable(f"interface {interface} has no IPv4 address (ip address show {interface})")
    if not interfaces.is_up(interface):
        raise SocketUnavailable(f"interface {interface} is down: ip link set {interface} up")
    return {interface: address}


async def search(
    target: str = message.ALL, interface: str | None = None, seconds: float = SECONDS, host: str | None = None
) -> list[Found]:
    """Return the devices that answer within `seconds`, by name; their descriptions may take three seconds more.

    The group is searched on `interface`, or on all (`ways`); with a `host`, that one is asked. Raises `InvalidInput`
    and `SocketUnavailable`.
    """
    if not message.is_target(target):
        raise InvalidInput(
            f"{target[:80]!r} is nothing to search for: write ssdp:all, upnp:rootdevice, uuid:... or urn:..."
        )
    mx = max(1, min(message.MX_MAX, int(seconds - _MARGIN)))
    data = message.search(target, mx, _WHO)
    loop = asyncio.get_running_loop()
    timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
    async with contextlib.AsyncExitStack() as stack:
        sockets = await _sockets(stack, interface, host)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                timeout=timeout,
                connector=aiohttp.TCPConnector(limit=_FETCHES),
                headers={"Accept-Encoding": "identity", "User-Agent": f"Linux UPnP/1.1 fanout/{__version__}"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        )
        answers = _Answers(session)
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
    """Takes answers, and fetches the descriptions that they name."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._heard: dict[str, _Heard] = {}

    def read(self, opened: socket.socket) -> None:
        """Take a datagram: one a turn, so that a flood of them does not keep the clock from being looked at."""
        try:
            data, address = opened.recvfrom(message.DATAGRAM_MAX + 1)
            found = message.parse(data)
        except (OSError, message.InvalidSsdp):
            return
        if not isinstance(found, message.Answer):
            return
        advert, host = found.advert, str(address[0])
        heard = self._heard.get(advert.location)
        if heard is None:
            if len(self._heard) >= LOCATIONS_MAX:
                return
            fetch = asyncio.ensure_future(_fetch(self._session, advert.location, host))
            heard = self._heard[advert.location] = _Heard(advert.headers.get("SERVER") or "", host, fetch)
        if len(heard.udns) < _WORDS_MAX:
            heard.udns[advert.udn] = None
        if ":device:" in advert.nt and len(heard.types) < _WORDS_MAX:
            heard.types[advert.nt] = None
        if advert.nt == message.ROOT_DEVICE:
            heard.root = advert.udn

    async def devices(self) -> list[Found]:
        """Return what was found, once the descriptions are there or it has been long enough."""
        tasks = [heard.fetch for heard in self._heard.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=_FETCH_SECONDS)
        found = []
        for location, heard in self._heard.items():
            said = heard.fetch.result() if heard.fetch.done() else None
            if said is None:
                udn, name, kind = heard.root or next(iter(heard.udns)), None, next(iter(heard.types), "")
            else:
                udn, name, kind = said.udn.lower(), said.friendly_name, said.device_type
            found.append(Found(udn, location, heard.server, name, kind, heard.host))
        return sorted(found, key=lambda each: (each.friendly_name is None, each.friendly_name or "", each.location))

    async def stop(self) -> None:
        """Fetch no more."""
        tasks = [heard.fetch for heard in self._heard.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _fetch(session: aiohttp.ClientSession, location: str, host: str) -> description.Description | None:
    """Return what the description at `location` says; None where it cannot be had, for whatever reason.

    Only from a literal address, which is not this host's loopback unless the answer came from there: whoever answers
    a search could name anything, and make this host ask for it.
    """
    origin = rewrite.location(location)
    if origin is None or (_is_loopback(origin[0]) and not _is_loopback(host)):
        return None
    try:
        async with session.get(URL(location, encoded=True), allow_redirects=False) as response:
            if response.status != 200:
                return None
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > description.SIZE_MAX:
                    return None
        return description.parse(bytes(body))
    except (aiohttp.ClientError, OSError, ValueError):  # TimeoutError and InvalidDescription are of these
        return None


async def _sockets(
    stack: contextlib.AsyncExitStack, interface: str | None, host: str | None
) -> list[tuple[socket.socket, _Address]]:
    """Return what to send by, and where to."""
    if host is None:
        return [
            (_open(stack, socket.AF_INET, address, name), (message.GROUP, message.PORT))
            for name, address in ways(interface).items()
        ]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, message.PORT, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):  # gaierror is an OSError; a label that is too long is none of DNS
        raise InvalidInput(f"{host[:80]!r} is no address, and no name of one") from None
    family, *_, address = found[0]
    return [(_open(stack, family), address)]


def _open(stack: contextlib.AsyncExitStack, family: int, address: str | None = None, name: str = "") -> socket.socket:
    try:
        opened = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        opened.setblocking(False)
        if address is not None:
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _HOPS)
            request = _MREQN.pack(bytes(4), bytes(4), interfaces.index(name) or 0)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
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
        raise SocketUnavailable(f"cannot send a search to {sockets[0][1][0]}: {explain.leaving(failure.errno or 0)}")


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
