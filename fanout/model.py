"""The values that all packages share: Service, Endpoint, Message. What became of a message is in `report`.

Pure: no socket, no clock. Seconds are floats, sizes are bytes.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from fanout.errors import InvalidInput, InvalidService, MessageTooLarge

DEFAULT_PORT = 12000
_PORT_NAME = re.compile("(?=.*[a-z])(?!.*--)[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?")
MAX_PAYLOAD = 65_507
"""Largest UDP payload over IPv4, in bytes: 65,535 minus 20 of IPv4 header and 8 of UDP header (RFC 768)."""


class Family(StrEnum):
    """Which addresses of a Service are resolved: one family per pod."""

    ANY = "any"
    """A records; AAAA where there is no A record."""
    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @classmethod
    def parse(cls, text: str) -> Family:
        """Return the family of that name; raise `InvalidInput`."""
        try:
            return cls(text)
        except ValueError:
            raise InvalidInput(f"family must be one of {', '.join(cls)}; got {text!r}") from None


class Endpoint(NamedTuple):
    """IP address (a literal in its shortest form) and UDP port of one pod; usable as a socket address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_ipv6(self) -> bool:
        """Whether sending to it needs an IPv6 socket."""
        return ":" in self.host

    @property
    def sort_key(self) -> tuple[int, int, int]:
        """Order by family, then by address as a number, then by port."""
        address = ipaddress.ip_address(self.host)
        return (address.version, int(address), self.port)

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> Endpoint:
        """Parse `10.0.0.7`, `10.0.0.7:12000`, `fd00::1` or `[fd00::1]:12000`; raise `InvalidService`."""
        text = text.strip()
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise InvalidService(f"endpoint must be [IPv6 address]:port, such as [fd00::1]:12000; got {text!r}")
            port_text = rest[1:] if rest else None
        elif text.count(":") == 1:
            host, _, port_text = text.partition(":")
        else:
            host, port_text = text, None
        try:
            address = unmapped(ipaddress.ip_address(host))
        except ValueError:
            raise InvalidService(
                "endpoint must be an IP address with an optional port, such as 10.0.0.7, 10.0.0.7:12000 or "
                f"[fd00::1]:12000; got {text!r}"
            ) from None
        if "%" in host:
            raise InvalidService(f"endpoint must not be a link-local address with a zone: no pod has one; got {text!r}")
        if address.is_unspecified:
            raise InvalidService(f"endpoint must not be the unspecified address, which no pod has; got {text!r}")
        port = default_port if port_text is None else parse_port(port_text)
        return cls(str(address), port)


def unmapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address in an IPv4-mapped IPv6 one (RFC 4291, 2.5.5.2), others unchanged."""
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


def parse_port(text: str | int) -> int:
    """Return a UDP port from 1 to 65535; raise `InvalidService`."""
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 5:
        text = int(text)
    if isinstance(text, int) and not isinstance(text, bool) and 1 <= text <= 65_535:
        return text
    raise InvalidService(f"port must be a number from 1 to 65535; got {text!r}")


@dataclass(frozen=True, slots=True)
class Service:
    """What to send to: a DNS name or a literal list, and a port, as a number or a Service port's name."""

    name: str
    port: int | str = DEFAULT_PORT
    family: Family = Family.ANY
    literals: tuple[Endpoint, ...] | None = field(init=False, repr=False, compare=False)
    """The endpoints where `name` is a literal list, which needs no DNS; None otherwise."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InvalidService(f"Service name must be a string that is not empty; got {self.name!r}")
        if not isinstance(self.port, str):
            parse_port(self.port)
        elif self.port.isascii() and self.port.isdigit():
            object.__setattr__(self, "port", parse_port(self.port))
        elif not is_port_name(self.port):
            raise InvalidService(
                "port must be a number from 1 to 65535 or a port name (at most 15 of a-z, 0-9 and '-', with a letter); "
                f"got {self.port!r}"
            )
        object.__setattr__(self, "literals", parse_literals(self.name, self.port))

    def __str__(self) -> str:
        return self.name


def is_port_name(text: str) -> bool:
    """Whether Kubernetes accepts `text` as a port name (IANA_SVC_NAME, RFC 6335, 5.1)."""
    return _PORT_NAME.fullmatch(text) is not None


def parse_literals(text: str, default_port: int | str = DEFAULT_PORT) -> tuple[Endpoint, ...] | None:
    """Return the endpoints of a literal list, or None where `text` is a DNS name.

    A list contains a comma, or is one address: `10.0.0.7,10.0.0.8:13000,[fd00::1]:12000`. Order is kept,
    duplicates are dropped. Raises `InvalidService` for a list with an invalid entry.
    """
    looks_literal = "," in text or text.startswith("[") or text.count(":") > 1
    if not looks_literal:
        host = text.partition(":")[0]
        looks_literal = bool(host) and all(character.isdigit() or character == "." for character in host)
    if not looks_literal:
        if ":" in text:
            raise InvalidService(f"Service name must not contain ':': give the port apart (-p, port=); got {text!r}")
        return None
    if not isinstance(default_port, int):
        if not default_port.isdigit():
            raise InvalidService(f"port must be a number for a literal list of endpoints; got {default_port!r}")
        default_port = parse_port(default_port)
    entries = [entry for entry in text.split(",") if entry.strip()]
    if not entries:
        raise InvalidService(f"list of endpoints must not be empty; got {text!r}")
    return tuple(dict.fromkeys(Endpoint.parse(entry, default_port) for entry in entries))


def check_payload(payload: object, most: int = MAX_PAYLOAD, bound: str = "a UDP datagram carries at most") -> bytes:
    """Return the payload as bytes; raise `InvalidInput` or `MessageTooLarge` before any pod gets a copy."""
    if isinstance(payload, bytes):
        data = payload
    elif isinstance(payload, (bytearray, memoryview)):
        data = bytes(payload)
    else:
        raise InvalidInput(f"payload must be bytes: encode it first; got {type(payload).__name__}")
    if len(data) > most:
        raise MessageTooLarge(f"the message has {len(data):,} bytes; {bound} {most:,}: send it in parts")
    return data


@dataclass(slots=True)
class Message:
    """One received message: a plain datagram, or the content of frames."""

    payload: bytes
    source: Endpoint
    received_at: float
    """When fanout read it, or its last part, from the kernel, in seconds since the epoch."""

    @property
    def gap(self) -> int:
        """How many messages of a numbered stream are missing directly before this one; -1 for a late one.

        The sum over a stream is its loss, the receiver's queue included. 0 for all other messages.
        """
        return 0

    @property
    def question(self) -> Question | None:
        """What settles a message whose sender may ask for its result; None for all other messages."""
        return None

    @property
    def wants_reply(self) -> bool:
        """Whether it is a query that has not been answered."""
        question = self.question
        return question is not None and question.wants_reply

    def reply(self, payload: bytes) -> None:
        """Answer a query at once; raise `InvalidInput` for a message that is not a query or was answered before."""
        question = self.question
        if question is None:
            raise InvalidInput("cannot reply: the message is not a query")
        question.reply(payload)


class Question(Protocol):
    """The state of a message whose sender may ask for its result."""

    @property
    def wants_reply(self) -> bool:
        """Whether it is a query that has not been answered."""

    @property
    def problem(self) -> str:
        """Why its reply was not sent; empty where it was sent or there is none."""

    def reply(self, payload: bytes) -> None:
        """Answer it."""

    def confirm(self) -> None:
        """Report it as handled, or a query as failed for want of a reply; does nothing where it is settled."""

    def fail(self, reason: str) -> None:
        """Report that its handler failed; does nothing where it is settled."""

    def release(self) -> None:
        """Report that it will not be handed over: accept it again where it is sent again."""


class FramedMessage(Message):
    """A message that came in frames and has a gap before it or a `question`.

    Neither is a field of the dataclass, so that all messages have the same fields.
    """

    __slots__ = ("gap", "question")
    gap: int
    question: Question | None

    def __init__(
        self, payload: bytes, source: Endpoint, received_at: float, gap: int = 0, question: Question | None = None
    ) -> None:
        self.payload = payload
        self.source = source
        self.received_at = received_at
        self.gap = gap
        self.question = question
