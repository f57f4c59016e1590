"""SSDP as control points speak it, in sockets of the test's hosts; nothing here is the relay's own."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tests.support.lan import RECEIVE_BUFFER, Host
from tests.support.waiting import PATIENCE, until

GROUP, PORT = "239.255.255.250", 1900
ALL, ROOT_DEVICE = "ssdp:all", "upnp:rootdevice"
MEDIA_SERVER = "urn:schemas-upnp-org:device:MediaServer:1"
CONTENT_DIRECTORY = "urn:schemas-upnp-org:service:ContentDirectory:1"
EVERYBODY = (GROUP, PORT)
_AGAIN = 1.0
"""Seconds after which a search is sent again: UDP loses, and who is to answer may not be there yet."""


class Heard(NamedTuple):
    """An answer or an announcement, as it came."""

    first_line: str
    headers: dict[str, str]
    source: tuple[str, int]

    @property
    def location(self) -> str:
        return self.headers.get("location", "")

    @property
    def usn(self) -> str:
        return self.headers.get("usn", "")

    @property
    def udn(self) -> str:
        return self.usn.partition("::")[0]

    @property
    def target(self) -> str:
        return self.headers.get("st", "")

    @property
    def nts(self) -> str:
        return self.headers.get("nts", "")


def search(target: str, mx: int | None = 1, man: str = '"ssdp:discover"', *more: str) -> bytes:
    """Return an M-SEARCH."""
    lines = ["M-SEARCH * HTTP/1.1", f"HOST: {GROUP}:{PORT}", f"MAN: {man}"]
    lines += [f"MX: {mx}"] if mx is not None else []
    return "\r\n".join([*lines, f"ST: {target}", *more, "", ""]).encode()


def read(datagram: bytes, source: tuple[str, int]) -> Heard:
    """Read a datagram."""
    first_line, *lines = datagram.decode().split("\r\n")
    assert lines[-2:] == ["", ""], datagram
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[:-2])}
    return Heard(first_line, headers, source)


def client(host: Host, address: str | None = None) -> socket.socket:
    """Return a socket that searches from a host's address on the LAN."""
    made = host.listen(address or host.lan, 0)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address or host.lan))
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)  # UPnP Device Architecture 1.1, 1.1.1
    return made


def answers(asking: socket.socket, count: int) -> list[Heard]:
    """Return the next answers that come, so many."""
    return [read(*asking.recvfrom(65_535)) for _ in range(count)]


def have_come(asking: socket.socket) -> list[Heard]:
    """Return the answers that have come by now, and were not read yet."""
    return [read(*each) for each in _by_now(asking)]


def find(
    host: Host,
    target: str = ROOT_DEVICE,
    *,
    udns: Iterable[str],
    destination: tuple[str, int] = EVERYBODY,
    mx: int | None = 1,
) -> dict[str, Heard]:
    """Search until all these devices have answered; return the first answer of each that has, others too."""
    wanted = set(udns)
    found: dict[str, Heard] = {}

    def have_answered() -> bool:
        asking.sendto(search(target, mx), destination)
        with contextlib.suppress(TimeoutError):
            while not wanted <= found.keys():
                heard = read(*asking.recvfrom(65_535))
                found.setdefault(heard.udn, heard)
        return wanted <= found.keys()

    with contextlib.closing(client(host)) as asking:
        asking.settimeout(_AGAIN)
        until(have_answered, lambda: f"{wanted} answer a search for {target}: {sorted(found)} do")
    return found


@dataclass
class NotifyListener:
    """Hears what is announced on the LAN."""

    host: Host

    def __post_init__(self) -> None:
        self._socket = self.host.udp()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._socket.bind((GROUP, PORT))
        joined = struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton(self.host.lan))
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        self.heard: list[Heard] = []
        """All announcements by now."""

    def wait_for(self, nts: str, udn: str, *, nt: str = ROOT_DEVICE) -> Heard:
        """Return the first announcement of that kind that has not been waited for."""
        return self.wait_until(lambda each: (each.nts, each.udn, each.headers["nt"]) == (nts, udn, nt))

    def wait_until(self, is_wanted: Callable[[Heard], bool]) -> Heard:
        """Return the first announcement that is wanted, and comes after those that were waited for."""
        found = self.hear(is_wanted, PATIENCE)
        assert found, f"not heard within {PATIENCE:g} s, but: {[(each.nts, each.usn) for each in self.heard]}"
        return found

    def hear(self, is_wanted: Callable[[Heard], bool], patience: float) -> Heard | None:
        """Return the next announcement that is wanted; None where nothing comes for so many seconds."""
        self._socket.settimeout(patience)
        with contextlib.suppress(TimeoutError):
            while True:
                if self._take(*self._socket.recvfrom(65_535)) and is_wanted(self.heard[-1]):
                    return self.heard[-1]
        return None

    def drain(self) -> list[Heard]:
        """Return what has come and was not read yet."""
        before = len(self.heard)
        for datagram, source in _by_now(self._socket):
            self._take(datagram, source)
        return self.heard[before:]

    def _take(self, datagram: bytes, source: tuple[str, int]) -> bool:
        """Take note of it if it is an announcement."""
        is_one = datagram.startswith(b"NOTIFY")
        if is_one:
            self.heard.append(read(datagram, source))
        return is_one


def _by_now(opened: socket.socket) -> list[tuple[bytes, tuple[str, int]]]:
    found = []
    patience = opened.gettimeout()
    opened.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(opened.recvfrom(65_535))
    opened.settimeout(patience)
    return found
