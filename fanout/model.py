"""The values that travel between the floors: Service, Endpoint, Message, Outcome, Report.

Pure: no socket, no clock. Seconds are floats, sizes are bytes.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from fanout.errors import InvalidInput, InvalidService, MessageTooLarge

DEFAULT_PORT = 12000
MAX_PAYLOAD = 65_507
"""Largest UDP payload over IPv4 (RFC 768: 65,535 less 20 of IPv4 and 8 of UDP header), in bytes."""


class Family(StrEnum):
    """Which addresses a Service is asked for: one family per pod."""

    ANY = "any"
    """A records; AAAA where there is no A record."""
    IPV4 = "ipv4"
    IPV6 = "ipv6"


class Endpoint(NamedTuple):
    """IP address (a literal in its shortest form) and UDP port of one pod; also a socket address as it is."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_ipv6(self) -> bool:
        """Whether a datagram to it needs an IPv6 socket."""
        return ":" in self.host

    @property
    def sort_key(self) -> tuple[int, int, int]:
        """Orders by family, then by address as a number, then by port."""
        address = ipaddress.ip_address(self.host)
        return (address.version, int(address), self.port)

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> Endpoint:
        """Parse `10.0.0.7`, `10.0.0.7:12000`, `fd00::1` or `[fd00::1]:12000`; raise `InvalidService`."""
        text = text.strip()
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise InvalidService(f"endpoint {text!r} is not [IPv6 address]:port")
            port_text = rest[1:] if rest else None
        elif text.count(":") == 1:
            host, _, port_text = text.partition(":")
        else:
            host, port_text = text, None
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise InvalidService(
                f"endpoint {text!r} has no IP address: write 10.0.0.7, 10.0.0.7:12000 or [fd00::1]:12000"
            ) from None
        if "%" in host:
            raise InvalidService(f"endpoint {text!r}: no pod has a link-local address with a zone")
        if address.is_unspecified:
            raise InvalidService(f"endpoint {text!r}: the unspecified address is no pod's")
        port = default_port if port_text is None else parse_port(port_text)
        return cls(str(unmapped(address)), port)


def unmapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address inside an IPv4-mapped IPv6 one (RFC 4291, 2.5.5.2), others as they are."""
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


def parse_port(text: str | int) -> int:
    """Return a UDP port from 1 to 65535; raise `InvalidService`."""
    if isinstance(text, int) or (text.isascii() and text.isdigit()):
        port = int(str(text)[:10])
        if 1 <= port <= 65_535:
            return port
    raise InvalidService(f"port {text!r} is not a number from 1 to 65535")


@dataclass(frozen=True, slots=True)
class Service:
    """What the user asked for: a DNS name, and the port as a number or as the name of a Service port."""

    name: str
    port: int | str = DEFAULT_PORT
    family: Family = Family.ANY

    def __post_init__(self) -> None:
        if not self.name or self.name.isspace():
            raise InvalidService("the Service name is empty")
        if isinstance(self.port, int):
            parse_port(self.port)
        elif self.port.isascii() and self.port.isdigit():
            object.__setattr__(self, "port", parse_port(self.port))
        elif not is_port_name(self.port):
            raise InvalidService(
                f"port {self.port!r} is neither a number from 1 to 65535 nor a port name "
                "(at most 15 of a-z, 0-9 and '-', with a letter)"
            )

    def __str__(self) -> str:
        return self.name


def is_port_name(text: str) -> bool:
    """Whether Kubernetes takes `text` as a port's name (IANA_SVC_NAME, RFC 6335, 5.1)."""
    return (
        0 < len(text) <= 15
        and text.isascii()
        and text.replace("-", "").isalnum()
        and text == text.lower()
        and any(character.isalpha() for character in text)
        and not text.startswith("-")
        and not text.endswith("-")
        and "--" not in text
    )


def parse_literals(text: str, default_port: int | str = DEFAULT_PORT) -> tuple[Endpoint, ...] | None:
    """Return the endpoints of a literal list, or None where `text` is a DNS name.

    A list holds a comma, or is one address: `10.0.0.7,10.0.0.8:13000,[fd00::1]:12000`. Order is kept,
    duplicates are left out. Raises `InvalidService` for a list that has a wrong entry.
    """
    looks_literal = "," in text or text.startswith("[") or text.count(":") > 1
    if not looks_literal:
        host = text.partition(":")[0]
        looks_literal = bool(host) and all(character.isdigit() or character == "." for character in host)
    if not looks_literal:
        if ":" in text:
            raise InvalidService(f"Service {text!r} has a ':'; give the port by itself (-p, port=)")
        return None
    if not isinstance(default_port, int):
        if not default_port.isdigit():
            raise InvalidService(f"a literal list of endpoints needs a port number, not {default_port!r}")
        default_port = parse_port(default_port)
    entries = [entry for entry in text.split(",") if entry.strip()]
    if not entries:
        raise InvalidService(f"the list of endpoints {text!r} is empty")
    return tuple(dict.fromkeys(Endpoint.parse(entry, default_port) for entry in entries))


def check_payload(payload: object) -> bytes:
    """Return the payload as bytes; raise `InvalidInput` or `MessageTooLarge` before any pod gets a copy."""
    if isinstance(payload, bytes):
        data = payload
    elif isinstance(payload, (bytearray, memoryview)):
        data = bytes(payload)
    else:
        raise InvalidInput(f"a payload is bytes, not {type(payload).__name__}: encode it first")
    if len(data) > MAX_PAYLOAD:
        raise MessageTooLarge(
            f"the message has {len(data):,} bytes; a UDP datagram carries at most {MAX_PAYLOAD:,}: send it in parts"
        )
    return data


@dataclass(slots=True)
class Message:
    """One received datagram."""

    payload: bytes
    source: Endpoint
    received_at: float
    """Seconds since the epoch, when fanout took it from the kernel."""


class Status(StrEnum):
    """What became of a message's copy to one pod."""

    SENT = "sent"
    """The kernel took it; says nothing of delivery."""
    REFUSED = "refused"
    """ICMP said that it was not delivered."""
    DROPPED = "dropped"
    """The kernel did not take it."""


class DropReason(StrEnum):
    """Why the kernel did not take a copy; the only source of such labels in reports, logs and metrics."""

    NOT_PERMITTED = "not_permitted"
    UNREACHABLE = "unreachable"
    NO_BUFFER = "no_buffer"
    TOO_LARGE = "too_large"
    INVALID_ADDRESS = "invalid_address"
    OTHER = "other"

    @classmethod
    def of(cls, number: int) -> DropReason:
        """Return the reason that an errno stands for."""
        return _REASONS.get(number, cls.OTHER)


_REASONS = {
    errno.EPERM: DropReason.NOT_PERMITTED,
    errno.EACCES: DropReason.NOT_PERMITTED,
    errno.ENETUNREACH: DropReason.UNREACHABLE,
    errno.EHOSTUNREACH: DropReason.UNREACHABLE,
    errno.ENETDOWN: DropReason.UNREACHABLE,
    errno.ENOBUFS: DropReason.NO_BUFFER,
    errno.ENOMEM: DropReason.NO_BUFFER,
    errno.EAGAIN: DropReason.NO_BUFFER,
    errno.EMSGSIZE: DropReason.TOO_LARGE,
    errno.EINVAL: DropReason.INVALID_ADDRESS,
    errno.EAFNOSUPPORT: DropReason.INVALID_ADDRESS,
    errno.EADDRNOTAVAIL: DropReason.INVALID_ADDRESS,
}


class Fault(NamedTuple):
    """One errno for one pod: from the send itself, or heard from ICMP afterwards."""

    endpoint: Endpoint
    errno: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the copies for one pod. `sent + dropped` is what was attempted."""

    endpoint: Endpoint
    sent: int = 0
    """Datagrams that the kernel took."""
    refused: int = 0
    """ICMP errors heard from or about this pod; may concern an earlier message (see `Sender.send`)."""
    dropped: int = 0
    """Datagrams that the kernel did not take."""
    errno: int = 0
    """Of the last refusal or drop; 0 where there was none."""

    @property
    def status(self) -> Status:
        """Return the worst that happened to this pod's copies."""
        if self.dropped:
            return Status.DROPPED
        return Status.REFUSED if self.refused else Status.SENT

    @property
    def reason(self) -> DropReason | None:
        """Why copies were dropped; None where none was."""
        return DropReason.of(self.errno) if self.dropped else None


class Tally:
    """Counts, per pod, of one call to send: filled by the sender, read as a `Report`."""

    __slots__ = ("_drops", "_refusals", "messages", "runs", "size")

    def __init__(self) -> None:
        self.messages = 0
        self.size = 0
        self.runs: list[tuple[tuple[Endpoint, ...], int]] = []
        self._drops: dict[Fault, int] = {}
        self._refusals: dict[Fault, int] = {}

    def attempted(self, endpoints: tuple[Endpoint, ...], size: int) -> None:
        """Count one message of `size` bytes that was attempted to each of `endpoints`."""
        self.messages += 1
        self.size += size
        if self.runs and self.runs[-1][0] is endpoints:
            self.runs[-1] = (endpoints, self.runs[-1][1] + 1)
        else:
            self.runs.append((endpoints, 1))

    def dropped(self, faults: Iterable[Fault]) -> None:
        """Count copies that the kernel did not take."""
        for fault in faults:
            self._drops[fault] = self._drops.get(fault, 0) + 1

    def refused(self, faults: Iterable[Fault]) -> None:
        """Count ICMP errors."""
        for fault in faults:
            self._refusals[fault] = self._refusals.get(fault, 0) + 1

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return one outcome a pod, in the order in which the pods were first attempted."""
        attempts: dict[Endpoint, int] = {}
        for endpoints, count in self.runs:
            for endpoint in endpoints:
                attempts[endpoint] = attempts.get(endpoint, 0) + count
        dropped, drop_errno = _by_endpoint(self._drops)
        refused, refusal_errno = _by_endpoint(self._refusals)
        for endpoint in refused:
            attempts.setdefault(endpoint, 0)
        return tuple(
            Outcome(
                endpoint,
                sent=count - dropped.get(endpoint, 0),
                refused=refused.get(endpoint, 0),
                dropped=dropped.get(endpoint, 0),
                errno=drop_errno.get(endpoint) or refusal_errno.get(endpoint, 0),
            )
            for endpoint, count in attempts.items()
        )


def _by_endpoint(faults: Mapping[Fault, int]) -> tuple[dict[Endpoint, int], dict[Endpoint, int]]:
    counts: dict[Endpoint, int] = {}
    errnos: dict[Endpoint, int] = {}
    for fault, count in faults.items():
        counts[fault.endpoint] = counts.get(fault.endpoint, 0) + count
        errnos[fault.endpoint] = fault.errno
    return counts, errnos


class Report:
    """What became of a message, or of a stream of them: one `Outcome` a pod.

    `messages` and `size` (bytes of payload) tell what was sent, `age` how old the answer of DNS was
    (seconds), `stale` whether DNS has failed since, so that the last known pods were used.
    """

    __slots__ = ("_outcomes", "_tally", "age", "stale")

    def __init__(self, tally: Tally, *, age: float, stale: bool) -> None:
        self._tally = tally
        self._outcomes: tuple[Outcome, ...] | None = None
        self.age = age
        self.stale = stale

    @property
    def messages(self) -> int:
        """How many messages were sent."""
        return self._tally.messages

    @property
    def size(self) -> int:
        """Bytes of payload in those messages, each counted once."""
        return self._tally.size

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """One a pod, those that joined or left meanwhile included."""
        if self._outcomes is None:
            self._outcomes = self._tally.outcomes()
        return self._outcomes

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every pod of this report."""
        return tuple(outcome.endpoint for outcome in self.outcomes)

    @property
    def sent(self) -> tuple[Outcome, ...]:
        """The pods whose every copy the kernel took, and of which ICMP said nothing."""
        return self._having(Status.SENT)

    @property
    def refused(self) -> tuple[Outcome, ...]:
        """The pods of which ICMP said that a copy was not delivered."""
        return self._having(Status.REFUSED)

    @property
    def dropped(self) -> tuple[Outcome, ...]:
        """The pods for which the kernel did not take a copy."""
        return self._having(Status.DROPPED)

    @property
    def complete(self) -> bool:
        """Whether every pod is in `sent`."""
        return len(self.sent) == len(self.outcomes)

    def _having(self, status: Status) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.status is status)

    def __repr__(self) -> str:
        return (
            f"<Report of {self.messages} message(s): {len(self.sent)} sent, {len(self.refused)} refused, "
            f"{len(self.dropped)} dropped; age {self.age:.1f} s{', stale' if self.stale else ''}>"
        )
