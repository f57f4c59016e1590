"""A player: finds what a media server has and fetches it, as `python -m benchmarks.contenders.player`.

`find HOST PORT` is answered by the URLs of its music, `get URL` by the bytes of a body and the nanoseconds from
before the connection to its last byte, `sum URL` by the body's CRC.
"""

from __future__ import annotations

import html
import json
import re
import socket
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

_BUFFER = memoryview(bytearray(1 << 20))
_SIZE = re.compile(rb"^Content-Length: ([0-9]+)\r?$", re.MULTILINE | re.IGNORECASE)
_DIRECTORY = "urn:schemas-upnp-org:service:ContentDirectory:1"
_BROWSE = f"""<?xml version="1.0"?>
<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
<u:Browse xmlns:u="{_DIRECTORY}"><ObjectID>1$4</ObjectID><BrowseFlag>BrowseDirectChildren</BrowseFlag>
<Filter>*</Filter><StartingIndex>0</StartingIndex><RequestedCount>10</RequestedCount><SortCriteria></SortCriteria>
</u:Browse></s:Body></s:Envelope>"""
"""What minidlna has of music."""


def find(host: str, port: str) -> list[str]:
    """Return the URLs of a media server's music."""
    headers = {"SOAPACTION": f'"{_DIRECTORY}#Browse"', "Content-Type": 'text/xml; charset="utf-8"'}
    request = Request(f"http://{host}:{port}/ctl/ContentDir", _BROWSE.encode(), headers)
    with urlopen(request, timeout=60) as response:
        didl = html.unescape(response.read().decode())
    return re.findall(r"<res [^>]*>(http://[^<]+)</res>", didl)


def get(url: str) -> dict[str, int]:
    """Fetch it and forget it."""
    cpu, started = time.process_time_ns(), time.monotonic_ns()
    size = _fetch(url, lambda part: None)
    return {"bytes": size, "wall": time.monotonic_ns() - started, "cpu": time.process_time_ns() - cpu}


def check(url: str) -> int:
    """Fetch it and return its CRC."""
    crc = 0

    def add(part: memoryview) -> None:
        nonlocal crc
        crc = zlib.crc32(part, crc)

    _fetch(url, add)
    return crc


def _fetch(url: str, take: Callable[[memoryview], None]) -> int:
    """Read a body into the same buffer over and over; return its size."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 80), timeout=30) as connection:
        connection.sendall(f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head and (part := connection.recv(65_536)):
            head += part
        head, _, had = head.partition(b"\r\n\r\n")
        match = _SIZE.search(head)
        if match is None or not head.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(f"{url}: {head[:1000]!r}")
        size, got = int(match[1]), len(had)
        take(memoryview(had))
        while got < size:
            count = connection.recv_into(_BUFFER)
            if not count:
                raise ConnectionError(f"{url}: it ended after {got:,} of {size:,} bytes")
            take(_BUFFER[:count])
            got += count
    return got


def main() -> None:
    """Answer each line."""
    commands: dict[str, Callable[..., Any]] = {"find": find, "get": get, "sum": check}
    print('"ready"', flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        print(json.dumps(commands[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
