"""What passes between a receiver's sockets and its `Reception`, and how runs of frames are read at once. Pure."""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import HEADER, NUMBER_AT
from fanout.protocol.receiving.dedup import Order


class Track(NamedTuple):
    """Where messages stand in their sender's stream: what is missing before them is told when they are handed over."""

    order: Order
    first: int

    def handed(self, start: int, count: int) -> list[tuple[int, int]]:
        """Take note that `count` are handed over, from the one at index `start` on; see `Order.met`."""
        return self.order.met(self.first + start, count)


class Ticket:
    """A message that was handed over and whose sender may ask what became of it."""

    __slots__ = (
        "asked",
        "attempt",
        "is_open",
        "is_sealed",
        "number",
        "problem",
        "room",
        "route",
        "sender",
        "wants_reply",
    )

    def __init__(self, sender: int, is_sealed: bool, number: int, route: Any) -> None:
        self.sender, self.is_sealed, self.number = sender, is_sealed, number
        self.route = route
        """How to answer; the shell's matter."""
        self.wants_reply = False
        self.asked = False
        """Whether the sender wants to know."""
        self.attempt = self.room = 0
        """Of the question that waits for an answer: what it is to repeat, and its bytes; 0 where none waits."""
        self.is_open = True
        """Whether it waits to be settled."""
        self.problem = ""
        """Why its reply was not sent."""

    @property
    def key(self) -> tuple[int, int]:
        """What the ledger knows it by."""
        return self.sender, self.number


class Parcel(NamedTuple):
    """Messages to hand over: so many in a row, each `segment` bytes (the last may have fewer)."""

    data: bytes
    segment: int
    messages: int
    header: int = 0
    """Bytes at the beginning of each that are not for the user."""
    track: Track | None = None
    ticket: Ticket | None = None
    payloads: list[bytes] | None = None
    """Of messages that were opened one by one, in the place of `data`."""


class Taken:
    """What became of a run of datagrams."""

    __slots__ = ("answers", "parcels", "refusals")

    def __init__(self) -> None:
        self.parcels: list[Parcel] = []
        self.answers: list[bytes] = []
        """To be sent to the source at once."""
        self.refusals: dict[ReceiveDrop, str] = {}
        """Why some were not handed over, for the log: a sentence for each reason."""


@lru_cache(256)
def outer_numbers(segment: int, count: int) -> struct.Struct:
    """Read the number of each frame of a run: all at once, since Python is slow at loops."""
    return struct.Struct("!" + f"{NUMBER_AT}xQ{segment - HEADER.size}x" * (count - 1) + f"{NUMBER_AT}xQ")


def all_begin_alike(data: bytes, segment: int, count: int, stop: int = NUMBER_AT) -> bool:
    """Whether all frames of a run have the same bytes up to `stop`: by default, one kind and one sender."""
    for at, column in _columns(data[:stop], count):  # noqa: SIM110 - all() takes half as long again
        if data[at::segment] != column:
            return False
    return True


def is_in_a_row(data: bytes, segment: int, count: int) -> bool:
    """Whether all frames of a run are of one kind and one sender, and their numbers go on by one.

    It is False as well where more than the last two bytes of the numbers change: that is to be found another way.
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
    """Return what stands at each place of the beginning in `count` frames: a slice takes it out of a run at once."""
    return [(at, bytes((byte,)) * count) for at, byte in enumerate(beginning)]


def in_a_row(numbers: tuple[int, ...]) -> list[tuple[int, int]]:
    """Cut numbers where they do not go on by one."""
    cuts = [0, *(at for at in range(1, len(numbers)) if numbers[at] != numbers[at - 1] + 1), len(numbers)]
    return list(pairwise(cuts))
