"""URLs in documents and header values: a pod's address is replaced by the relay's. Pure.

A URL is recognized by its form (`http://`, a literal address, a port), without parsing the document. So it is found in
XML that is escaped inside XML (DIDL-Lite in a SOAP answer), in playlists, and in what claims to be XML but is not, and
every other byte stays as it was.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from fanout.model import unmapped

Authority = Callable[[str, int], str | None]
"""Takes the host and port of a URL and returns their replacement (`10.50.0.20:28203`), or None where the URL stays as
it is. "" means that it stays because no port is left for the pod, which is counted."""
URLS_MAX = 65_536
"""URLs in one document, which bounds the time that it takes."""
AUTHORITIES_MAX = 16_384
"""Different hosts and ports in one document; URLs with any others stay as they are."""
_DOCUMENTS = frozenset(
    (
        *("text/xml", "application/xml", "text/html"),
        *("audio/x-mpegurl", "audio/mpegurl", "application/x-mpegurl", "application/mpegurl"),
        *("application/vnd.apple.mpegurl", "application/vnd.apple.mpegurl.audio"),
        *("audio/x-scpls", "audio/scpls", "application/x-scpls", "application/vnd.ms-wpl"),
        # video/x-ms-asf is the type of a playlist and of a film: it counts as a film.
        *("video/x-ms-asx", "video/x-ms-wvx", "audio/x-ms-wax", "application/x-ms-asx"),
    )
)
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# It begins with "://", which is rare and has no case: the search is several times as fast. What follows the port must
# not continue an address, a name, or a password before the host.
_BEGINNING = (
    rb"://(?<=[Hh][Tt][Tt][Pp]://)(?<![0-9A-Za-z+.-]....://)"
    rb"(?P<host>" + _OCTET + rb"(?:\." + _OCTET + rb"){3}|\[[0-9A-Fa-f:.]{2,45}\])(?P<port>:[0-9]{0,5}+)?+"
)
_URL = re.compile(_BEGINNING + rb"(?![0-9A-Za-z._~:@%!$*+=-])", re.DOTALL)
_AT_START = re.compile(rb"[Hh][Tt][Tt][Pp]" + _BEGINNING + rb"(?=[/?#]|\Z)", re.DOTALL)
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?(utf-?(?:16|32)(?:-?[lb]e)?)\b", re.IGNORECASE)
# A document begins with a byte order mark or an ASCII character: `<`, `#`, `[`. UTF-32 is first, since its beginnings
# include those of UTF-16.
_WIDE_STARTS = (
    (re.compile(rb"\xff\xfe\0\0|[\x01-\x7f]\0\0\0"), "utf-32-le"),
    (re.compile(rb"\0\0\xfe\xff|\0\0\0[\x01-\x7f]"), "utf-32-be"),
    (re.compile(rb"\xff\xfe|[\x01-\x7f]\0"), "utf-16-le"),
    (re.compile(rb"\xfe\xff|\0[\x01-\x7f]"), "utf-16-be"),
)


class TooManyUrls(ValueError):
    """A document has more URLs than the limit."""


class Origin(NamedTuple):
    """Where an HTTP server listens."""

    host: str
    """Its address in the shortest form, like that of a pod's endpoint."""
    port: int


class HttpUrl(NamedTuple):
    """An http URL with a literal address."""

    origin: Origin
    path: str
    """Everything after the host and the port, as it is written."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A document after its URLs were replaced."""

    body: bytes
    changed: int
    """URLs in which a pod's address was replaced by the relay's."""
    left: int
    """URLs of pods for which no port was left."""


def is_document(content_type: str) -> bool:
    """Whether a body of that type can have URLs that a client follows: XML, HTML or a playlist, never media."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in _DOCUMENTS or (kind.endswith("+xml") and kind.startswith(("application/", "text/")))


def in_text(body: bytes, content_type: str, authority: Authority) -> Rewritten:
    """Return a document with the hosts and ports of its URLs replaced. Raises `TooManyUrls`.

    It is changed as bytes, since every charset includes ASCII except UTF-16 and UTF-32, which are told by a byte order
    mark, the first characters or the content type. A wrong declaration does no harm.
    """
    wide = _wide(body, content_type)
    substitutes = _Substitutes(authority)
    if wide is None:
        changed = _rewritten(body, substitutes)
    else:
        whole = len(body) - len(body) % (4 if "32" in wide else 2)
        try:
            text = body[:whole].decode(wide, "surrogatepass").encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return Rewritten(body, 0, 0)
        text = _rewritten(text, substitutes)
        changed = text.decode("utf-8", "surrogatepass").encode(wide, "surrogatepass") + body[whole:]
    return Rewritten(changed if substitutes.changed else body, substitutes.changed, substitutes.left)


def in_value(text: str, authority: Authority) -> str:
    """Return a header's value (Location, CaptionInfo.sec) with the hosts and ports of its URLs replaced."""
    return _URL.sub(_Substitutes(authority).put, text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


def split(url: str) -> HttpUrl | None:
    """Return the parts of an http URL.

    None where it has no literal address (a name can mean another address a moment later), is not http, has a user
    before the host, or is not a URL.
    """
    match = _AT_START.match(url.encode("utf-8", "surrogatepass"))
    origin = None if match is None else _origin(match)
    return None if match is None or origin is None else HttpUrl(origin, url[match.end() :])


@lru_cache(256)  # a pod answers with the same LOCATION again and again
def at(host: str, url: str) -> HttpUrl | None:
    """Return the parts of an http URL whose address is `host`; None for all others."""
    parts = split(url)
    return parts if parts is not None and parts.origin.host == host else None


class _Substitutes:
    """The replacements for the URLs of one document, looked up once for each host and port."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._known: dict[bytes, bytes | None] = {}
        """What replaces the host and port of a URL: empty where no port is left, None where they stay."""
        self.changed = self.left = 0

    def put(self, match: re.Match[bytes]) -> bytes:
        """Return the replacement for the beginning of a URL."""
        url = match[0]
        if url not in self._known:
            if len(self._known) >= AUTHORITIES_MAX:
                return url
            found = _origin(match)
            authority = None if found is None else self._authority(*found)
            self._known[url] = None if authority is None else authority.encode()
        substitute = self._known[url]
        if not substitute:
            self.left += substitute is not None
            return url
        self.changed += 1
        return b"://" + substitute


def _rewritten(text: bytes, substitutes: _Substitutes) -> bytes:
    if text.count(b"://") > URLS_MAX:
        raise TooManyUrls(f"more than {URLS_MAX} URLs")
    return _URL.sub(substitutes.put, text)


def _origin(match: re.Match[bytes]) -> Origin | None:
    # A colon without a port means the default port, like no colon (RFC 3986, 3.2.3).
    port = int((match["port"] or b"").removeprefix(b":") or b"80")
    if not 1 <= port <= 65_535:
        return None
    host = match["host"].decode()
    if not host.startswith("["):
        return Origin(host, port)
    try:
        return Origin(str(unmapped(ipaddress.IPv6Address(host[1:-1]))), port)
    except ValueError:
        return None


def _wide(body: bytes, content_type: str) -> str | None:
    """Return the encoding of a document in UTF-16 or UTF-32; None for all others."""
    for start, encoding in _WIDE_STARTS:
        if start.match(body):
            return encoding
    declared = _CHARSET.search(content_type)
    if declared is None or b"\0" not in body:
        return None
    encoding = declared[1].lower().replace("-", "")
    return f"utf-{encoding[3:5]}-{encoding[5:] or 'be'}"  # without a mark it is big-endian (RFC 2781, 4.3)
