"""HTTP as a player on the LAN speaks it, in sockets of the test's hosts."""

from __future__ import annotations

import contextlib
import html
import http.client
import re
import socket
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.support.lan import Host
from tests.support.waiting import PATIENCE
from tests.system.ssdp import ssdp

_BROWSE = f"""<?xml version="1.0"?>
<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
<u:Browse xmlns:u="{ssdp.CONTENT_DIRECTORY}"><ObjectID>1$4</ObjectID><BrowseFlag>BrowseDirectChildren</BrowseFlag>
<Filter>*</Filter><StartingIndex>0</StartingIndex><RequestedCount>10</RequestedCount><SortCriteria></SortCriteria>
</u:Browse></s:Body></s:Envelope>"""
"""Asks for what is in a minidlnad's folder of all music."""


class Page(NamedTuple):
    """An answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def port_of(url: str) -> int:
    port = urllib.parse.urlsplit(url).port
    assert port
    return port


def connect(host: Host, url: str) -> http.client.HTTPConnection:
    """Return a connection to the server of a URL."""
    where = urllib.parse.urlsplit(url)
    assert where.hostname
    opened = http.client.HTTPConnection(where.hostname, where.port, timeout=PATIENCE)
    opened.sock = host.tcp()
    opened.sock.connect((where.hostname, where.port or 80))
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


def music(host: Host, origin: str) -> list[str]:
    """Return the URLs of a minidlnad's music."""
    headers = {"SOAPACTION": f'"{ssdp.CONTENT_DIRECTORY}#Browse"', "Content-Type": 'text/xml; charset="utf-8"'}
    page = fetch(host, f"{origin}/ctl/ContentDir", "POST", headers, _BROWSE.encode())
    return re.findall(r"<res [^>]*>(http://[^<]+)</res>", html.unescape(page.text))
