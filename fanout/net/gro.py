"""Runs of datagrams: how the kernel hands them over in one buffer (UDP_GRO), and how they become messages again.

With UDP_GRO (man 7 udp; Linux 5.0) one `recvmsg` gives up to 64 KiB: datagrams of one source and of equal size, the
last of which may be shorter, and that size as a control message. Datagrams of different sources are never merged.
A socket on all addresses also tells to which of them they came, in a control message behind that one.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

from fanout.model import Endpoint, FramedMessage, Message, Question
from fanout.net import pktinfo, sockaddr
from fanout.net.bind import UDP_GRO
from fanout.protocol.receiving.run import Track

BUFFER = 65_535
"""Bytes that one call may give: more than any datagram, and any run of them, has."""
SIZE = struct.Struct("=i")
"""The control message of a merged run: the size of its datagrams."""
CONTROL = socket.CMSG_SPACE(SIZE.size) + pktinfo.SPACE
_FIRST = 0xFF  # what frames and probes begin with
_SOURCES_MAX = 4096


class Run(NamedTuple):
    """One buffer of the kernel: one datagram, or several in a row."""

    data: bytes
    segment: int
    """Bytes of each datagram but the last, which has the rest."""
    messages: int
    """Datagrams in it, at least 1: each is a message."""
    address: tuple[Any, ...]
    """The source, as the socket told it."""
    received_at: float
    header: int = 0
    """Bytes at the beginning of each datagram that are not for the user."""
    track: Track | None = None
    """Where they stand in their sender's stream."""
    question: Question | None = None
    """What asks what became of the message."""
    control: list[tuple[int, int, bytes]] | None = None
    """As `recvmsg` gave it, where the run may have to be answered: the last one may tell which address was asked."""
    payloads: list[bytes] | None = None
    """Of messages that were opened one by one, in the place of `data`."""

    @property
    def size(self) -> int:
        """Bytes that it takes, or a few more."""
        return len(self.data) if self.payloads is None else self.segment * self.messages

    @property
    def payload_bytes(self) -> int:
        """Bytes for the user."""
        if self.payloads is not None:
            return sum(map(len, self.payloads))
        return len(self.data) - self.header * self.messages


def receive(listening: socket.socket, messages: int, calls: int, now: float) -> list[Run]:
    """Take what waits, until there are `messages` or more, or so many `calls` were made; never block.

    The last run may take it past `messages`.
    """
    runs: list[Run] = []
    recvmsg = listening.recvmsg
    make = tuple.__new__
    taken = 0
    control: list[tuple[int, int, bytes]] | None
    try:
        while taken < messages and len(runs) < calls:
            data, control, _, address = recvmsg(BUFFER, CONTROL)
            segment = len(data)
            count = 1
            if control:
                if control[0][1] == UDP_GRO and (size := SIZE.unpack(control[0][2])[0]) > 0:
                    segment = size
                    count = max(1, -(-len(data) // size))
                # It is kept only with what may be answered: it takes as much room as a small datagram.
                if not data or data[0] != _FIRST:
                    control = None
            # Like Run(...), but in a third of the time: it is done for each datagram that comes by itself.
            runs.append(make(Run, (data, segment, count, address, now, 0, None, None, control, None)))
            taken += count
    except OSError:
        # Nothing waits (EAGAIN); or it is of the interface (ENETDOWN), which is no reason to stop listening.
        pass
    return runs


class Sources(dict[tuple[Any, ...], Endpoint]):
    """The endpoint of each address that a socket told: made once, since it costs more than a datagram's copy.

    At most 4,096 are kept, whoever sends under however many addresses.
    """

    def __missing__(self, address: tuple[Any, ...]) -> Endpoint:
        if len(self) >= _SOURCES_MAX:
            self.clear()
        self[address] = endpoint = Endpoint(sockaddr.plain(address[0]), address[1])
        return endpoint


Gaps = list[tuple[int, int]]
"""Which of some messages do not just follow the one before: their index, and their gap (`Message.gap`)."""


def split(run: Run, start: int, count: int, source: Endpoint, into: list[Message], gaps: Gaps | None = None) -> None:
    """Append `count` messages of the run, from the one at index `start` on: one copy for each payload."""
    data, segment, messages, _, received_at, header, _, question, _, opened = run
    begin = len(into)
    payloads: Sequence[bytes]
    if opened is not None:
        payloads = opened[start : start + count]
    elif messages == 1:
        if header:
            data = data[header:]
        if gaps or question is not None:
            into.append(FramedMessage(data, source, received_at, gaps[0][1] if gaps else 0, question))
        else:
            into.append(Message(data, source, received_at))
        return
    else:
        offset = start * segment
        last = min(segment, len(data) - offset - (count - 1) * segment)
        payloads = _layout(segment, count, last, header).unpack_from(data, offset)
    into.extend(map(Message, payloads, repeat(source), repeat(received_at)))
    for index, gap in gaps or ():
        into[begin + index] = FramedMessage(payloads[index], source, received_at, gap)


@lru_cache(256)
def _layout(segment: int, count: int, last: int, header: int) -> struct.Struct:
    """A struct cuts a buffer five times faster than slices do."""
    skip = f"{header}x" if header else ""
    return struct.Struct(f"{skip}{segment - header}s" * (count - 1) + f"{skip}{last - header}s")
