"""Which parts of a request's or an answer's head are passed on, and how they are written. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import quote

PSEUDONYM = "fanout"
"""The relay's name in Via and Server."""
HEAD_MAX = 16 * 1024
"""Bytes of all headers of a request."""
# RFC 9110, 7.6.1: for the next hop only.
_HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    )
)
TRANSFORMED = (
    *("content-length", "content-encoding", "accept-ranges", "etag", "last-modified"),
    *("content-md5", "digest", "content-digest", "repr-digest"),
)
"""Headers that are true of a pod's document, but not of the rewritten one: its size, digests and validators.

With other URLs it is another representation (RFC 9110, 8.8), one for each address of the relay, and it may name other
ports later. So clients get no validator by which to ask for a part of it, or whether it has changed.
"""
_ABSOLUTE = re.compile(r"http://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


def carried(headers: Iterable[tuple[str, str]], *without: str) -> list[tuple[str, str]]:
    """Return the end-to-end headers, except those in `without` (lower case).

    In a value, what is not UTF-8 is replaced; a header with control characters is left out.
    """
    pairs = list(headers)
    left = {name.strip().lower() for key, value in pairs if key.lower() == "connection" for name in value.split(",")}
    left |= _HOP_BY_HOP | set(without)
    return [
        (name, value.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
        for name, value in pairs
        if name.lower() not in left and not _CONTROLS.search(value)
    ]


def via(version: tuple[int, int]) -> tuple[str, str]:
    """Return the header that says how a request came here, to be added to those of others.

    A gateway may leave it out of answers (RFC 9110, 7.6.3): players get only what the pod says.
    """
    return "Via", f"{version[0]}.{version[1]} {PSEUDONYM}"


def absolute(raw: str) -> tuple[str, str] | None:
    """Return the authority and the rest of a request's target in absolute form (RFC 9112, 3.2.2); None for others."""
    match = _ABSOLUTE.fullmatch(raw)
    if match is None:
        return None
    return match[1], match[2] if match[2].startswith("/") else f"/{match[2]}"


def target(raw: str) -> str | None:
    """Return the path and query of a request as they are in a URL; None for anything but a path."""
    if not raw.startswith("/"):
        return None
    return quote(raw.partition("#")[0].encode("utf-8", "surrogateescape"), safe=_ASCII)


def is_literal(authority: str) -> bool:
    """Whether a Host header names an IP address, not a name that needs DNS."""
    host = authority.strip()
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        if not bracket or not re.fullmatch(r"(:[0-9]*)?", rest, re.ASCII):
            return False
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
        if not re.fullmatch(r"[0-9]*", port, re.ASCII):
            return False
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def reason(phrase: str | None) -> str | None:
    """Return the reason phrase of a status; None where it cannot be passed on."""
    return phrase if phrase is not None and phrase.isprintable() else None
