"""Runs of messages between the sockets and the queue, and how a run of frames is read at once. Pure."""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from fanout.model import Question
from fanout.protocol.frame import HEADER, NUMBER_AT
from fanout.protocol.receiving.dedup import Order

ControlMessages = list[tuple[int, int, bytes]]
"""As `recvmsg` gives them and `sendmsg` takes them: level, type and data."""


class Track(NamedTuple):
    """The position of messages in their sender's stream: the gap before them is known when they are handed over."""

    order: Order
    first: int

    def handed(self, start: int, count: int) -> list[tuple[int, int]]:
        """Record that `count` are handed over, from index `start` on; see `Order.met`."""
        return self.order.met(self.first + start, count)


class Run(NamedTuple):
    """Consecutive datagrams of one source, or the messages in them: one, or several of equal size.

    The kernel delivers them in one buffer, which the queue keeps until they are handed over.
    """

    data: bytes
    segment: int
    """Bytes of each datagram except the last, which has the rest."""
    messages: int
    """Datagrams in it, at least 1: each is a message."""
    address: tuple[Any, ...]
    """The source, as the socket reported it."""
    received_at: float
    """Seconds since the epoch."""
    header: int = 0
    """Bytes at the beginning of each datagram that are not for the user."""
    track: Track | None = None
    """Their position in their sender's stream."""
    question: Question | None = None
    """What settles the message, where its sender may ask for the result."""
    control: ControlMessages | None = None
    """From `recvmsg`, where the run may have to be answered: the last one may hold its destination address."""
    payloads: list[bytes] | None = None
    """The payloads of messages that were opened one by one, instead of `data`."""

    def of(self, datagram: bytes) -> Run:
        """Return a run of one datagram, from the same source."""
        return Run(datagram, len(datagram), 1, self.address, self.received_at)


@lru_cache(256)
def outer_numbers(segment: int, count: int) -> struct.Struct:
    """Return a struct that reads the numbers of all frames of a run at once: Python loops are slow."""
    return struct.Struct("!" + f"{NUMBER_AT}xQ{segment - HEADER.size}x" * (count - 1) + f"{NUMBER_AT}xQ")


def all_begin_alike(data: bytes, segment: int, count: int, stop: int = NUMBER_AT) -> bool:
    """Whether all frames of a run have the same bytes up to `stop`: by default, one kind and one sender."""
    for at, column in _columns(data[:stop], count):  # noqa: SIM110 - all() takes half as long again
        if data[at::segment] != column:
            return False
    return True


def is_in_a_row(data: bytes, segment: int, count: int) -> bool:
    """Whether all frames of a run are of one kind and one sender, with consecutive numbers.

    Also False where more than the last two bytes of the numbers change, which needs another check.
    """
    high, low = data[_LOW_AT - 1], data[_LOW_AT]
    turns = (low + count - 1) // 256
    if high + turns > 255:
        return False
    lows = (_BYTES * (turns + 1))[low : low + count]
    highs = b"".join([bytes((high + turn,)) * 256 for turn in range(turns + 1)])[low : low + count]
    return (
        data[_LOW_AT::segment] == lows
        and data[_LOW_AT - 1 :: segment] == highs
        and all_begin_alike(data, segment, count, _LOW_AT - 1)
    )


_BYTES = bytes(range(256))
_LOW_AT = HEADER.size - 1


@lru_cache(256)
def _columns(beginning: bytes, count: int) -> list[tuple[int, bytes]]:
    """Return what each byte of the beginning is in `count` frames: one slice of a run compares them all."""
    return [(at, bytes((byte,)) * count) for at, byte in enumerate(beginning)]


def in_a_row(numbers: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the (start, stop) of each stretch of consecutive numbers."""
    cuts = [0, *(at for at in range(1, len(numbers)) if numbers[at] != numbers[at - 1] + 1), len(numbers)]
    return list(pairwise(cuts))
