"""URLs in documents and header values: a pod's address is replaced by the relay's. Pure.

A URL is found by what it looks like (`http://`, a literal address, a port), not by parsing the document: so it is
found in XML that is escaped inside XML (DIDL-Lite in a SOAP answer), in playlists, and in what claims to be XML and
is not; and every other byte stays as it was.
"""

from __future__ import annotations

import codecs
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from fanout.model import unmapped

Authority = Callable[[str, int], str | None]
"""Takes the host and the port that a URL names; returns what it shall name instead (`10.50.0.20:28203`), None where
it stays as it is, and "" where it stays although it is a pod's: there is no port for it, which is counted."""
URLS_MAX = 65_536
"""What may be a URL in one document: the time for it is bounded by that."""
AUTHORITIES_MAX = 16_384
"""Different hosts and ports in one document; its URLs with more are left as they are."""
_DOCUMENTS = frozenset(
    (
        *("text/xml", "application/xml", "text/html"),
        *("audio/x-mpegurl", "audio/mpegurl", "application/x-mpegurl", "application/mpegurl"),
        *("application/vnd.apple.mpegurl", "application/vnd.apple.mpegurl.audio"),
        *("audio/x-scpls", "audio/scpls", "application/x-scpls", "application/vnd.ms-wpl"),
        # video/x-ms-asf is a playlist's and a film's: it is taken for a film.
        *("video/x-ms-asx", "video/x-ms-wvx", "audio/x-ms-wax", "application/x-ms-asx"),
    )
)
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# It begins with what is seldom and has no case: a search for that is several times as fast. What is not a URL's end
# behind the port is a longer address, a name, or a password before the host.
_BEGINNING = (
    rb"://(?<=[Hh][Tt][Tt][Pp]://)(?<![0-9A-Za-z+.-]....://)"
    rb"(?P<host>" + _OCTET + rb"(?:\." + _OCTET + rb"){3}|\[[0-9A-Fa-f:.]{2,45}\])(?P<port>:[0-9]{0,5}+)?+"
)
_URL = re.compile(_BEGINNING + rb"(?![0-9A-Za-z._~:@%!$*+=-])", re.DOTALL)
_AT_START = re.compile(rb"[Hh][Tt][Tt][Pp]" + _BEGINNING + rb"(?=[/?#]|\Z)", re.DOTALL)
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?(utf-?(?:16|32)(?:-?[lb]e)?)\b", re.IGNORECASE)
_MARKS = (  # that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDE_STARTS = (  # a document begins with one of ASCII: `<`, `#`, `[`
    (re.compile(rb"[\x01-\x7f]\0\0\0"), "utf-32-le"),
    (re.compile(rb"\0\0\0[\x01-\x7f]"), "utf-32-be"),
    (re.compile(rb"[\x01-\x7f]\0"), "utf-16-le"),
    (re.compile(rb"\0[\x01-\x7f]"), "utf-16-be"),
)


class TooManyUrls(ValueError):
    """A document has more URLs than the limit."""


class Origin(NamedTuple):
    """Where an HTTP server listens."""

    host: str
    """Its address in the shortest form, as that of a pod's endpoint."""
    port: int


class HttpUrl(NamedTuple):
    """An http URL with a literal address."""

    origin: Origin
    path: str
    """All that follows the host and the port, as it is written."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A document with the relay's URLs."""

    body: bytes
    changed: int
    """URLs in which a pod's address was replaced by the relay's."""
    left: int
    """URLs of pods for which there was no port left."""


def is_document(content_type: str) -> bool:
    """Whether a body of that type can hold URLs that a client will follow: XML, HTML or a playlist, never media."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in _DOCUMENTS or (kind.endswith("+xml") and kind.startswith(("application/", "text/")))


def in_text(body: bytes, content_type: str, authority: Authority) -> Rewritten:
    """Return the document with what `authority` names in its URLs.

    Bytes are changed as bytes: every charset has ASCII in it, but for UTF-16 and UTF-32, which a mark, the first
    characters or the content type tell. What is declared and is not so does no harm. Raises `TooManyUrls`.
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
    """Return a header's value (Location, CaptionInfo.sec, CALLBACK) with what `authority` names."""
    return _URL.sub(_Substitutes(authority).put, text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


@lru_cache(256)  # a pod answers with the same LOCATION again and again
def split(url: str) -> HttpUrl | None:
    """Return the parts of an http URL.

    None where it has no literal address (a name could mean another one a moment later), is not http, has a user
    before the host, or is not a URL.
    """
    match = _AT_START.match(url.encode("utf-8", "surrogatepass"))
    origin = None if match is None else _origin(match)
    return None if match is None or origin is None else HttpUrl(origin, url[match.end() :])


@lru_cache(256)
def at(host: str, url: str) -> HttpUrl | None:
    """Return the parts of an http URL whose address is `host`; None for all others."""
    parts = split(url)
    return parts if parts is not None and parts.origin.host == host else None


class _Substitutes:
    """The replacements for the URLs of one document, looked up once for each host and port."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._known: dict[bytes, bytes] = {}
        self._others: dict[bytes, bool] = {}
        """Whether there should have been a substitute: it is a pod's, and has no port."""
        self.changed = self.left = 0

    def put(self, match: re.Match[bytes]) -> bytes:
        """Return the replacement for the beginning of a URL."""
        url = match[0]
        substitute = self._known.get(url)
        if substitute is None and url not in self._others and len(self._known) + len(self._others) < AUTHORITIES_MAX:
            substitute = self._look_up(match)
        if substitute is None:
            self.left += self._others.get(url, False)
            return url
        self.changed += 1
        return substitute

    def _look_up(self, match: re.Match[bytes]) -> bytes | None:
        found = _origin(match)
        authority = None if found is None else self._authority(*found)
        if not authority:
            self._others[match[0]] = authority is not None
            return None
        self._known[match[0]] = made = b"://" + authority.encode()
        return made


def _rewritten(text: bytes, substitutes: _Substitutes) -> bytes:
    if text.count(b"://") > URLS_MAX:
        raise TooManyUrls(f"more than {URLS_MAX} URLs")
    return _URL.sub(substitutes.put, text)


def _origin(match: re.Match[bytes]) -> Origin | None:
    # Nothing behind the colon is the default, as no colon is (RFC 3986, 3.2.3).
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
    """Return the encoding of a document whose characters have two bytes or four; None for all others."""
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            return encoding
    for start, encoding in _WIDE_STARTS:
        if start.match(body):
            return encoding
    declared = _CHARSET.search(content_type)
    if declared is None or b"\0" not in body:
        return None
    encoding = declared[1].lower().replace("-", "")
    return f"utf-{encoding[3:5]}-{encoding[5:] or 'be'}"  # without a mark it is big-endian (RFC 2781, 4.3)
