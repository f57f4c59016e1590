"""Searches, or what a test has, with a source address of one's choice; root may send so from a host of its own."""

from __future__ import annotations

import ipaddress
import itertools
import socket
import struct
from collections.abc import Iterator, Sequence

from tests.support.lan import Host
from tests.system.ssdp import ssdp

SEARCHES = tuple(ssdp.search(target) for target in (ssdp.ALL, ssdp.ROOT_DEVICE, ssdp.MEDIA_SERVER))
_FIRST_PORT = 1024
_STRIDE = 7919
"""A prime: taken so many at a time, the addresses of a network and the ports all have their turn."""


def spoof(
    host: Host,
    destination: str,
    count: int,
    *sources: str,
    payloads: Sequence[bytes] = SEARCHES,
    ports: Sequence[int] = (ssdp.PORT,),
) -> None:
    """Send so many datagrams from a host, with these sources, to these ports and with these payloads, in turn.

    A source is an ADDRESS[:PORT] or a network, whose addresses take turns; so do the ports where none is named.
    """
    opened = host.raw()
    named = itertools.cycle(map(_source, sources))
    for number, source in enumerate(itertools.islice(named, count)):
        to = destination, ports[number % len(ports)]
        opened.sendto(_packet(next(source), to, payloads[number % len(payloads)]), (destination, 0))
    opened.close()


def _source(text: str) -> Iterator[tuple[str, int]]:
    host, _, port = text.partition(":")
    network = ipaddress.IPv4Network(host)
    hosts = max(1, network.num_addresses - 2)
    first = int(network.network_address) + (network.num_addresses > 1)
    for turn in itertools.count(0, _STRIDE):
        own_port = int(port) if port else _FIRST_PORT + turn % (65_536 - _FIRST_PORT)
        yield socket.inet_ntoa((first + turn % hosts).to_bytes(4)), own_port


def _packet(source: tuple[str, int], destination: tuple[str, int], payload: bytes) -> bytes:
    """Return an IPv4 packet; the kernel puts the sums in, and UDP needs none."""
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 4, socket.IPPROTO_UDP, 0) + addresses
    return ip + struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0) + payload
