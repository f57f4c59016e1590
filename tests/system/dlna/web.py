"""HTTP as a player on the LAN speaks it, in sockets of the test's hosts."""

from __future__ import annotations

import contextlib
import http.client
import socket
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.support.lan import Host


class Page(NamedTuple):
    """An answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def connect(host: Host, url: str) -> http.client.HTTPConnection:
    """Return a connection to the server of a URL."""
    where = urllib.parse.urlsplit(url)
    assert where.hostname
    opened = http.client.HTTPConnection(where.hostname, where.port, timeout=10)
    opened.sock = host.tcp()
    opened.sock.connect((where.hostname, where.port or 80))
    opened.sock.settimeout(10)
    return opened


@contextlib.contextmanager
def opened(
    host: Host, url: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> Iterator[tuple[socket.socket, http.client.HTTPResponse]]:
    """Yield the socket and the answer to a request, whose body was not read yet."""
    connection = connect(host, url)
    where = urllib.parse.urlsplit(url)
    connection.request(method, where.path + (f"?{where.query}" if where.query else ""), body, dict(headers or {}))
    own: socket.socket = connection.sock
    try:
        with connection.getresponse() as response:
            yield own, response
    finally:
        connection.close()
        own.close()


def fetch(
    host: Host, url: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> Page:
    """Return the answer to a request."""
    with opened(host, url, method, headers, body) as (_, response):
        return Page(response.status, response.headers, response.read())
