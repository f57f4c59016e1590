"""The frames of `fanout bench`: a numbered stream, an echo, and a report of what arrived. Pure.

Every frame begins with `HEADER`, in network byte order:

====== ==== ==========================================================================
offset size field
====== ==== ==========================================================================
0      8    `MAGIC`: neither UTF-8 text nor RTP nor JSON
8      1    version, 1
9      1    kind: 1 data, 2 ping, 3 pong, 4 request, 5 report
10     2    zero
12     8    run: a random number, drawn once per measurement
20     8    number: sequence number of data, from 0 to below 2^63; token of other kinds
====== ==== ==========================================================================

Data is padded to the size to be measured. A pong is its ping with another kind, of the same size. A report has
`REPORT_SIZE` bytes, and only a request of at least that size is answered: no reply is larger than its request.
Data, pongs and reports are never answered, so two receivers cannot keep each other busy.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

MAGIC = b"\xfffprobe\xfe"
VERSION = 1
HEADER = struct.Struct("!8sBBHQQ")
_BODY = struct.Struct("!10Q16s")
REPORT_SIZE = HEADER.size + _BODY.size
"""Bytes of a report, and the minimum of a request."""
NUMBER_LIMIT = 2**63
"""Sequence numbers are below it."""


class ProbeKind(IntEnum):
    """What a frame is."""

    DATA = 1
    PING = 2
    PONG = 3
    REQUEST = 4
    REPORT = 5


class Frame(NamedTuple):
    """The header of a frame that this version knows."""

    kind: ProbeKind
    run: int
    number: int


class Observed(NamedTuple):
    """What a receiver has seen of one run."""

    received: int = 0
    """Datagrams of data, each copy counted."""
    unique: int = 0
    """Different sequence numbers among them."""
    expected: int = 0
    """One more than the highest sequence number seen; 0 before the first."""
    duplicates: int = 0
    """Datagrams whose number had been seen before."""
    reordered: int = 0
    """Datagrams whose number was below the highest seen when they first came (RFC 4737, 3.3)."""
    stale: int = 0
    """Datagrams too late for the window to tell duplicates from reordered ones."""
    bytes: int = 0
    """Bytes of payload in `received`."""
    nanoseconds: int = 0
    """From the first datagram to the last, on the receiver's clock."""
    kernel_drops: int = 0
    """Datagrams from any sender that the receiver's kernel dropped from a full buffer since the run began."""
    queue_drops: int = 0
    """Datagrams from any sender that the receiver itself dropped since the run began."""
    version: str = ""
    """The receiver's version: at most 16 ASCII characters."""


def data_prefix(run: int) -> bytes:
    """Return the first bytes of a run's data; 8 bytes of sequence number and the padding follow."""
    return HEADER.pack(MAGIC, VERSION, ProbeKind.DATA, 0, run, 0)[:-8]


def ping(run: int, token: int) -> bytes:
    """Return a ping."""
    return HEADER.pack(MAGIC, VERSION, ProbeKind.PING, 0, run, token)


def pong(request: bytes) -> bytes:
    """Return the answer to a ping, of the same size."""
    return request[:9] + bytes((ProbeKind.PONG,)) + request[10:]


def request(run: int, token: int) -> bytes:
    """Return a request for a report."""
    return HEADER.pack(MAGIC, VERSION, ProbeKind.REQUEST, 0, run, token) + bytes(_BODY.size)


def report(run: int, token: int, observed: Observed) -> bytes:
    """Return the answer to a request."""
    *counts, version = observed
    body = _BODY.pack(*counts, version.encode("ascii", "replace"))
    return HEADER.pack(MAGIC, VERSION, ProbeKind.REPORT, 0, run, token) + body


def parse(datagram: bytes) -> Frame | None:
    """Return the header of a frame; None for anything else and for other versions."""
    if len(datagram) < HEADER.size:
        return None
    magic, version, kind, _, run, number = HEADER.unpack_from(datagram)
    if magic != MAGIC or version != VERSION or not ProbeKind.DATA <= kind <= ProbeKind.REPORT:
        return None
    return Frame(ProbeKind(kind), run, number)


def parse_report(datagram: bytes) -> Observed | None:
    """Return the content of a report; None where the size is wrong."""
    if len(datagram) != REPORT_SIZE:
        return None
    *counts, version = _BODY.unpack_from(datagram, HEADER.size)
    text = version.rstrip(b"\0").decode("ascii", "replace")
    printable = "".join(character if "!" <= character <= "~" else "?" for character in text)
    return Observed._make((*counts, printable))
