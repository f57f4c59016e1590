"""SSDP as control points speak it, in sockets of the test's hosts; nothing here is the relay's own."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tests.support.lan import RECEIVE_BUFFER, Host

GROUP, PORT = "239.255.255.250", 1900
ALL, ROOT_DEVICE = "ssdp:all", "upnp:rootdevice"
MEDIA_SERVER = "urn:schemas-upnp-org:device:MediaServer:1"
CONTENT_DIRECTORY = "urn:schemas-upnp-org:service:ContentDirectory:1"
EVERYBODY = (GROUP, PORT)


class Heard(NamedTuple):
    """An answer or an announcement, as it came."""

    first_line: str
    headers: dict[str, str]
    source: tuple[str, int]
    at: float
    """When it was read (time.monotonic)."""

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
    return Heard(first_line, headers, source, time.monotonic())


def client(host: Host, address: str | None = None) -> socket.socket:
    """Return a socket that searches from a host's address on the LAN."""
    made = host.listen(address or host.lan, 0)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address or host.lan))
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)  # UPnP Device Architecture 1.1, 1.1.1
    return made


def answers(
    asking: socket.socket, is_enough: Callable[[list[Heard]], object] = lambda heard: False, seconds: float = 2.0
) -> list[Heard]:
    """Return what comes until it is enough, or the seconds are over."""
    heard: list[Heard] = []
    deadline = time.monotonic() + seconds
    while not is_enough(heard) and (left := deadline - time.monotonic()) > 0:
        asking.settimeout(left)
        try:
            datagram, source = asking.recvfrom(65_535)
        except TimeoutError:
            break
        heard.append(read(datagram, source))
    return heard


def find(
    host: Host,
    target: str = ROOT_DEVICE,
    *,
    udns: Iterable[str] = (),
    destination: tuple[str, int] = EVERYBODY,
    seconds: float = 3.0,
    mx: int | None = 1,
) -> dict[str, Heard]:
    """Search once; return the first answer of each device, as soon as all that are wanted have answered."""
    wanted = set(udns)
    asking = client(host)
    asking.sendto(search(target, mx), destination)
    found = answers(asking, lambda heard: wanted and wanted <= {each.udn for each in heard}, seconds)
    asking.close()
    return {each.udn: each for each in reversed(found)}


@dataclass
class Ear:
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

    def wait_for(self, nts: str, udn: str, seconds: float = 10.0, *, nt: str = ROOT_DEVICE) -> Heard:
        """Return the first announcement of that kind that has not been waited for."""
        return self.wait_until(lambda each: (each.nts, each.udn, each.headers["nt"]) == (nts, udn, nt), seconds)

    def wait_until(self, is_wanted: Callable[[Heard], bool], seconds: float = 10.0) -> Heard:
        """Return the first announcement that is wanted, and comes after those that were waited for."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            assert left > 0, f"not heard within {seconds:g} s, but: {[(each.nts, each.usn) for each in self.heard]}"
            self._socket.settimeout(left)
            try:
                datagram, source = self._socket.recvfrom(65_535)
            except TimeoutError:
                continue
            if not datagram.startswith(b"NOTIFY"):
                continue
            self.heard.append(read(datagram, source))
            if is_wanted(self.heard[-1]):
                return self.heard[-1]

    def drain(self) -> list[Heard]:
        """Return what has come and was not read yet."""
        before = len(self.heard)
        self._socket.setblocking(False)
        while True:
            try:
                datagram, source = self._socket.recvfrom(65_535)
            except BlockingIOError:
                return self.heard[before:]
            if datagram.startswith(b"NOTIFY"):
                self.heard.append(read(datagram, source))
