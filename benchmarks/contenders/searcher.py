"""Searches, hears what is announced, and floods: `python -m benchmarks.contenders.searcher ADDRESS`, a host of the LAN.

`hear NTS UDN` is answered by when the next such announcement came that had not been heard (nanoseconds of
CLOCK_MONOTONIC), `find HOST UDN` by the nanoseconds until a search brought an answer of that device, `flood HOST COUNT
RATE SOURCE` by the nanoseconds in which so many searches were sent, with sources of that network.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

_GROUP, _PORT = "239.255.255.250", 1900
_ROOT = "upnp:rootdevice"
_SEARCH = (
    f'M-SEARCH * HTTP/1.1\r\nHOST: {_GROUP}:{_PORT}\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: {_ROOT}\r\n\r\n'.encode()
)
_AGAIN = 0.2
"""Seconds after which a search is sent again."""
_TURN = 100
"""Searches of a flood between two looks at the clock."""
_FIRST_PORT = 1024
_STRIDE = 7919  # a prime: the addresses of a network and the ports all have their turn


class Searcher:
    """On a host of its own."""

    def __init__(self, address: str) -> None:
        self._announced = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._announced.bind((_GROUP, _PORT))
        membership = socket.inet_aton(_GROUP) + socket.inet_aton(address)
        self._announced.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        self._address = address

    def hear(self, nts: str, udn: str) -> int:
        """Return when it came."""
        wanted = (f"NTS: {nts}\r\n".encode(), f"USN: {udn}::{_ROOT}\r\n".encode())
        while True:
            datagram = self._announced.recv(65_535)
            if all(each in datagram for each in wanted):
                return time.monotonic_ns()

    def find(self, host: str, udn: str) -> int:
        """Search until there is an answer; return how long that took."""
        started = time.monotonic_ns()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.bind((self._address, 0))
            asking.settimeout(_AGAIN)
            while True:
                asking.sendto(_SEARCH, (host, _PORT))
                try:
                    while udn.encode() not in asking.recv(65_535):
                        pass
                except TimeoutError:
                    continue
                return time.monotonic_ns() - started

    def flood(self, host: str, count: str, rate: str, source: str) -> int:
        """Send searches whose sources are forged."""
        network = ipaddress.IPv4Network(source)
        first = int(network.network_address) + (network.num_addresses > 1)
        hosts = max(1, network.num_addresses - 2)
        started = time.monotonic()
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as opened:
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(self._address))
            for number, turn in zip(range(int(count)), itertools.count(0, _STRIDE), strict=False):
                if number % _TURN == 0:
                    time.sleep(max(0.0, started + number / float(rate) - time.monotonic()))
                port = _FIRST_PORT + turn % (65_536 - _FIRST_PORT)
                opened.sendto(_packet((first + turn % hosts).to_bytes(4), port, host), (host, 0))
        return int(1e9 * (time.monotonic() - started))


def _packet(source: bytes, port: int, host: str) -> bytes:
    """Return a search as an IPv4 packet; the kernel puts the sums in, and UDP needs none."""
    size = 8 + len(_SEARCH)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 0, 0, 4, socket.IPPROTO_UDP, 0) + source + socket.inet_aton(host)
    return ip + struct.pack("!HHHH", port, _PORT, size, 0) + _SEARCH


def main(address: str) -> None:
    """Answer each line."""
    searcher = Searcher(address)
    commands: dict[str, Callable[..., Any]] = {
        "hear": searcher.hear, "find": searcher.find, "flood": searcher.flood,
    }  # fmt: skip
    print('"ready"', flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        print(json.dumps(commands[name](*arguments)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
