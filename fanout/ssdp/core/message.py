"""SSDP datagrams: searches, answers and announcements, as bytes and as values (UPnP Device Architecture 1.1, 1). Pure.

They are read leniently, since devices of twenty years are in use, and written canonically: only headers that were
parsed are passed on of a stranger's datagram.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.version import __version__

GROUP = "239.255.255.250"
PORT = 1900
DATAGRAM_MAX = 4096
"""Bytes of a datagram that is read or written; those of devices have a few hundred."""
HEADERS_MAX = 64
ALL = "ssdp:all"
ROOT_DEVICE = "upnp:rootdevice"
MX_MAX = 5
"""Seconds: a larger MX counts as this (UDA 1.1, 1.3.2)."""
MAX_AGE = 1800
"""Seconds that an announcement without CACHE-CONTROL is valid: the least that UDA 1.1 recommends (1.2.2)."""
_MAX_AGE_MOST = 86_400
_TARGET_MAX = 512
_FIELD_MAX = 1024
"""Bytes of a USN or a LOCATION: a whole answer then stays below DATAGRAM_MAX."""
_SERVER_MAX = _DATE_MAX = 128
_SERVER = f"Linux UPnP/1.1 fanout/{__version__}"
_DISCOVER = '"ssdp:discover"'
_SEARCH_LINE = re.compile(r"M-SEARCH \* HTTP/1\.[0-9]")
_NOTIFY_LINE = re.compile(r"NOTIFY \* HTTP/1\.[0-9]")
_ANSWER_LINE = re.compile(r"HTTP/1\.[0-9] 200(?: .*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
# C0 and C1 controls, line separators, and surrogates, which UTF-8 does not have.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TARGET = re.compile(r"[!-~]+")
_NUMBER = re.compile(r"[0-9]{1,10}")
_MAX_AGE_FIELD = re.compile(r"max-age\s*=\s*\"?([0-9]{1,10})", re.IGNORECASE)
_TYPE = re.compile(r"(urn:[^:]+):(.+:)([0-9]{1,9})", re.IGNORECASE)
# Those of one hop, those of a body, which SSDP does not have, and those that are written anew.
_NOT_CARRIED = frozenset(
    (
        *("host", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"),
        *("content-length", "content-type", "man", "mx", "st", "nt", "nts", "usn", "location", "cache-control"),
        *("ext", "server", "date"),
        # A relay has only port 1900, no TLS (UDA 2.0, 1.2.2), and takes no answers over TCP (1.3.2).
        *("searchport.upnp.org", "securelocation.upnp.org", "tcpport.upnp.org"),
        *("bootid.upnp.org", "nextbootid.upnp.org"),
    )
)


class InvalidSsdp(ValueError):
    """A datagram that is refused."""

    def __init__(self, reason: SsdpDrop, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Headers:
    """Header fields in their order: names in any case, values without control characters. Immutable."""

    __slots__ = ("by_name", "fields")

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        """Raise ValueError for a name that is not a token, or a value of more than one line."""
        self.fields: tuple[tuple[str, str], ...] = tuple(fields)
        self.by_name: dict[str, str] = {}
        """The first value of each name, by the name in lower case."""
        for name, value in self.fields:
            if _NAME.fullmatch(name) is None:
                raise ValueError(f"a header's name must be a token; got {name[:80]!r}")
            if _UNFIT.search(value) is not None:
                raise ValueError(f"the value of {name} has a control character")
            self.by_name.setdefault(name.lower(), value)

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of that name."""
        return self.by_name.get(name.lower(), default)

    def with_(self, name: str, value: str) -> Headers:
        """Return these with that one at the end, in the place of those of its name. Raises ValueError."""
        return Headers([*self.without(name).fields, (name, value)])

    def without(self, *names: str) -> Headers:
        """Return these without those of the names."""
        keys = {name.lower() for name in names}
        return Headers(each for each in self.fields if each[0].lower() not in keys)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.fields)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Headers) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Headers({list(self.fields)!r})"

    def _key(self) -> tuple[tuple[str, str], ...]:
        return tuple((name.lower(), value) for name, value in self.fields)


_NONE = Headers()


class NotifyKind(StrEnum):
    """The NTS of a NOTIFY."""

    ALIVE = "ssdp:alive"
    UPDATE = "ssdp:update"
    BYEBYE = "ssdp:byebye"


@dataclass(frozen=True, slots=True)
class Search:
    """An M-SEARCH."""

    target: str
    """Its ST."""
    mx: int | None
    """Seconds within which it is answered, at most 5; None where it has no valid MX."""
    headers: Headers = _NONE


@dataclass(frozen=True, slots=True)
class Advert:
    """What an answer or a NOTIFY says about one device or service."""

    nt: str
    """Its type: the NT of a NOTIFY, the ST of an answer; that of the USN where the ST is `ssdp:all`."""
    usn: str
    location: str
    """The URL of the device's description; empty where a byebye leaves it out."""
    max_age: int = MAX_AGE
    """Seconds."""
    headers: Headers = _NONE
    """All headers, including those in the other fields."""
    udn: str = field(init=False, repr=False, compare=False)
    """The device that it belongs to, from the USN: `uuid:...` in lower case."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "udn", self.usn.partition("::")[0].lower())


@dataclass(frozen=True, slots=True)
class Notify:
    """An announcement; its advert has a LOCATION unless it is a byebye."""

    kind: NotifyKind
    advert: Advert


def parse(data: bytes) -> Search | Advert | Notify:
    """Return a search, the advert of an answer, or an announcement; raise `InvalidSsdp`.

    Lines may end without a carriage return, the last one without any end, and spaces may precede a colon. What follows
    the headers is ignored: SSDP has no bodies.
    """
    if len(data) > DATAGRAM_MAX:
        raise InvalidSsdp(SsdpDrop.OVERSIZED, f"it must have at most {DATAGRAM_MAX:,} bytes; got {len(data):,}")
    if not data.startswith((b"M-SEARCH ", b"NOTIFY ", b"HTTP/")):
        raise InvalidSsdp(SsdpDrop.NOT_SSDP, "it does not begin like SSDP")
    first, headers = _head(data)
    if _SEARCH_LINE.fullmatch(first):
        return _search(headers)
    if _NOTIFY_LINE.fullmatch(first):
        text = headers.by_name.get("nts", "")
        try:
            kind = NotifyKind(text)
        except ValueError:
            raise _malformed("its NTS is unknown") from None
        return Notify(kind, _advert(headers, "nt", is_located=kind is not NotifyKind.BYEBYE))
    if _ANSWER_LINE.fullmatch(first):
        return _advert(headers, "st", is_located=True)
    raise _malformed("its first line must be that of M-SEARCH, NOTIFY or an answer 200")


def parse_answer(data: bytes) -> Advert:
    """Return the advert of an answer to a search; raise `InvalidSsdp`, also for anything but an answer."""
    found = parse(data)
    if isinstance(found, Advert):
        return found
    raise InvalidSsdp(SsdpDrop.NOT_ASKED, "it does not answer a search")


def search(target: str, mx: int, headers: Headers = _NONE) -> bytes:
    """Return an M-SEARCH. Its HOST is the group even where it goes to one device, since devices check that.

    Those of `headers` that identify the control point (such as USER-AGENT and CPFN.UPNP.ORG) are carried over.
    """
    return _datagram(
        "M-SEARCH * HTTP/1.1",
        [("HOST", f"{GROUP}:{PORT}"), ("MAN", _DISCOVER), ("MX", str(mx)), ("ST", target)],
        headers,
    )


def as_asked(advert: Advert, target: str) -> Advert:
    """Return an advert as it answers a search for `target`.

    "The response MUST specify the same version as was contained in the search request" (UDA 1.1, 1.3.2), and its USN
    ends with the type in its ST (1.3.3): gssdp and miniupnpd answer so, too.
    """
    owner, _, kind = advert.usn.partition("::")
    if target == ALL or target == advert.nt == kind:
        return advert
    return replace(advert, nt=target, usn=f"{owner}::{target}" if _includes(kind, target) else advert.usn)


def answer(advert: Advert, target: str) -> bytes:
    """Return the answer to a search for `target`."""
    advert = as_asked(advert, target)
    date = advert.headers.by_name.get("date")
    fields = [
        ("CACHE-CONTROL", f"max-age={advert.max_age}"),
        *([("DATE", date[:_DATE_MAX])] if date else []),
        ("EXT", ""),
        ("LOCATION", advert.location),
        ("SERVER", _server(advert)),
        ("ST", advert.nt),
        ("USN", advert.usn),
        *_boot(advert.headers),
    ]
    return _datagram("HTTP/1.1 200 OK", fields, advert.headers)


def notify(kind: NotifyKind, advert: Advert) -> bytes:
    """Return an announcement, with the headers that UDA 1.1 (1.2.2 to 1.2.4) gives one of its kind."""
    named = [("NT", advert.nt), ("NTS", kind), ("USN", advert.usn)]
    fields = [("HOST", f"{GROUP}:{PORT}")]
    if kind is NotifyKind.BYEBYE:
        fields += [*named, *_boot(advert.headers), *_number(advert.headers, "CONFIGID.UPNP.ORG")]
        return _datagram("NOTIFY * HTTP/1.1", fields)
    if kind is NotifyKind.ALIVE:
        fields += [("CACHE-CONTROL", f"max-age={advert.max_age}"), ("LOCATION", advert.location)]
        fields += [("SERVER", _server(advert)), *named, *_boot(advert.headers)]
    else:
        fields += [("LOCATION", advert.location), *named]
        for name in ("BOOTID.UPNP.ORG", "NEXTBOOTID.UPNP.ORG"):
            fields += _number(advert.headers, name)
    return _datagram("NOTIFY * HTTP/1.1", fields, advert.headers)


def is_target(text: str) -> bool:
    """Whether that is a valid search target: printable ASCII without spaces."""
    return len(text) <= _TARGET_MAX and _TARGET.fullmatch(text) is not None


def matches(target: str, nt: str, usn: str) -> bool:
    """Whether an advert answers a search for `target` (UDA 1.1, 1.3.2 and 1.3.3).

    A device of version 2 answers for version 1, too. Case does not matter in UUIDs (RFC 4122, 3) and in the first two
    parts of a URN (RFC 8141, 3.1).
    """
    if target in (ALL, nt):
        return True
    if target[:5].lower() == "uuid:":
        return target.lower() == nt.lower() == usn.partition("::")[0].lower()
    return _includes(nt, target)


def _includes(kind: str, target: str) -> bool:
    """Whether `target` is the same type as `kind`, of the same or a lower version."""
    asked, had = _TYPE.fullmatch(target), _TYPE.fullmatch(kind)
    return (
        asked is not None
        and had is not None
        and asked[1].lower() == had[1].lower()
        and asked[2] == had[2]
        and int(asked[3]) <= int(had[3])
    )


def _malformed(text: str) -> InvalidSsdp:
    return InvalidSsdp(SsdpDrop.MALFORMED, text)


def _head(data: bytes) -> tuple[str, Headers]:
    """Return the first line and the headers."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        # latin-1 has controls where Windows has letters: that is no reason to lose the device.
        text = re.sub(r"[\x80-\x9f]", "?", data.decode("latin-1"))
    lines = iter(text.split("\n"))
    first = next(lines).rstrip("\r ")
    if _UNFIT.search(first) is not None:
        raise _malformed("its first line has a control character")
    fields: list[tuple[str, str]] = []
    for line in lines:
        content = line.removesuffix("\r")
        if not content:
            break
        if len(fields) == HEADERS_MAX:
            raise InvalidSsdp(SsdpDrop.OVERSIZED, f"it has more than {HEADERS_MAX} headers")
        name, colon, value = content.partition(":")
        if not colon:
            raise _malformed("a line has no colon")
        fields.append((name.rstrip(" \t"), value.strip(" \t").replace("\t", " ")))
    try:
        return first, Headers(fields)
    except ValueError as error:
        raise _malformed(str(error)) from None


def _search(headers: Headers) -> Search:
    value_of = headers.by_name.get
    if value_of("man") != _DISCOVER:
        raise InvalidSsdp(SsdpDrop.WRONG_MAN, f"its MAN is not {_DISCOVER}")
    target = value_of("st", "")
    if not is_target(target):
        raise InvalidSsdp(SsdpDrop.NO_TARGET, "its ST cannot be searched for")
    mx = value_of("mx", "")
    # int() is fast enough for DATAGRAM_MAX digits.
    return Search(target, min(int(mx), MX_MAX) if mx.isascii() and mx.isdigit() else None, headers)


def _advert(headers: Headers, name_of_type: str, *, is_located: bool) -> Advert:
    value_of = headers.by_name.get
    nt, usn, location = value_of(name_of_type, ""), value_of("usn", ""), value_of("location", "")
    owner, _, kind = usn.partition("::")
    if nt == ALL:  # some devices answer a search for all with just that
        nt = kind or usn
    if not is_target(nt) or not owner:
        raise _malformed(f"its {name_of_type.upper()} or USN is missing or malformed")
    if is_located and not location:
        raise _malformed("it has no LOCATION")
    if max(len(usn.encode()), len(location.encode())) > _FIELD_MAX:
        raise InvalidSsdp(SsdpDrop.OVERSIZED, f"its USN or LOCATION has more than {_FIELD_MAX:,} bytes")
    age = _MAX_AGE_FIELD.search(value_of("cache-control", ""))
    max_age = MAX_AGE if age is None else max(1, min(int(age[1]), _MAX_AGE_MOST))
    return Advert(nt, usn, location, max_age, headers)


def _server(advert: Advert) -> str:
    return (advert.headers.by_name.get("server") or _SERVER)[:_SERVER_MAX]


def _boot(headers: Headers) -> list[tuple[str, str]]:
    """Return the BOOTID: the next one, once the device has announced it (UDA 1.1, 1.2.4)."""
    for name in ("NEXTBOOTID.UPNP.ORG", "BOOTID.UPNP.ORG"):
        if found := _number(headers, name):
            return [("BOOTID.UPNP.ORG", found[0][1])]
    return []


def _number(headers: Headers, name: str) -> list[tuple[str, str]]:
    """Return the header of that name if it is valid: a number of 31 bits (UDA 1.1, 1.2.2)."""
    value = headers.by_name.get(name.lower(), "")
    return [(name, value)] if _NUMBER.fullmatch(value) else []


def _datagram(first: str, fields: list[tuple[str, str]], headers: Headers = _NONE) -> bytes:
    """Return a datagram with `fields`, and as many of the `headers` to be carried over as fit.

    Raises ValueError (`Headers`).
    """
    head = "".join([f"{first}\r\n", *[f"{name}: {value}\r\n" for name, value in Headers(fields).fields]]).encode()
    count = len(fields)
    for name, value in headers.fields:
        if name.lower() in _NOT_CARRIED or count == HEADERS_MAX:
            continue
        line = f"{name}: {value}\r\n".encode()
        if len(head) + len(line) + 2 <= DATAGRAM_MAX:
            head += line
            count += 1
    return head + b"\r\n"
