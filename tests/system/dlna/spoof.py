"""Send searches, or what a file holds, with a source address of one's choice; run as root in a host of the test's own.

`spoof.py DESTINATION[:FIRST-LAST] COUNT RATE [@FILE] SOURCE[:PORT]...`: COUNT of them, RATE a second (0: at once), to
port 1900 or to these ports in turn, from the sources in turn. A source may be a network (`8.0.0.0/8`): a random address
of it, and a random port. Prints when it is done.
"""

from __future__ import annotations

import ipaddress
import random
import socket
import struct
import sys
import time
from pathlib import Path

_TARGETS = ("ssdp:all", "upnp:rootdevice", "urn:schemas-upnp-org:device:MediaServer:1")
_SEARCH = 'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
_TURN = 100


def datagram(source: tuple[str, int], destination: tuple[str, int], payload: bytes) -> bytes:
    """Return an IPv4 packet; the kernel puts the sums in, and UDP needs none."""
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 4, socket.IPPROTO_UDP, 0) + addresses
    return ip + struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0) + payload


def main(destination: str, count: int, rate: float, *sources: str) -> None:
    """Send them."""
    payloads = [f"{_SEARCH}ST: {target}\r\n\r\n".encode() for target in _TARGETS]
    if sources[0].startswith("@"):
        payloads = [Path(sources[0][1:]).read_bytes()]
        sources = sources[1:]
    destination, _, ports = destination.partition(":")
    first, last = map(int, ports.split("-")) if ports else (1900, 1900)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    began = time.monotonic()
    for number in range(count):
        if rate and number % _TURN == 0:
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
        host, _, port = sources[number % len(sources)].partition(":")
        if "/" in host:
            network = ipaddress.ip_network(host)
            host = str(network[random.randrange(1, network.num_addresses - 1)])
        source = host, int(port or random.randrange(1024, 65_536))
        to = destination, first + number % (last - first + 1)
        raw.sendto(datagram(source, to, payloads[number % len(payloads)]), (destination, 0))
    print(f"sent in {time.monotonic() - began:.3f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
