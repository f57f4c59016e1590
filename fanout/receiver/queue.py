"""The bounded queue between the kernel and the handler of messages, and what happens when it is full."""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

from fanout import options
from fanout.errors import InvalidInput
from fanout.model import Endpoint, FramedMessage, Message, Question
from fanout.net import sockaddr
from fanout.net.gro import BUFFER
from fanout.protocol.receiving.run import Run

BYTES_MAX = 32 * 1024 * 1024
_SOURCES_MAX = 4096
_CALLS = 256  # of all takers between two checks of the bounds: some milliseconds' work


class Overflow(StrEnum):
    """What a receiver does when messages arrive faster than they are handled, and its queue is full."""

    WAIT = "wait"
    """Leave them in the kernel's buffer. When that is full, too, the kernel drops the newest (`kernel_drops`)."""
    DROP_OLDEST = "drop_oldest"
    """Drop the messages that waited longest (`queue_drops`): what is handed over is recent."""
    DROP_NEWEST = "drop_newest"
    """Drop the new messages (`queue_drops`): what is handed over has no gap before the loss began."""

    @classmethod
    def parse(cls, text: str) -> Overflow:
        """Return the policy of that name; raise `InvalidInput`."""
        try:
            return cls(text)
        except ValueError:
            raise InvalidInput(f"overflow must be one of {', '.join(cls)}; got {text!r}") from None


class Reservation(NamedTuple):
    """How much may be received: messages (the last run may exceed them), and calls."""

    messages: int
    calls: int


NO_ROOM = Reservation(0, 0)
_UNBOUNDED = 1 << 62


class MessageBatch(list[Message]):
    """Messages handed over together."""

    may_ask = False
    """Whether some of them have `questions`."""

    @property
    def questions(self) -> list[Question]:
        """What settles the messages whose senders may ask for the result."""
        return [question for one in self if (question := one.question) is not None]


class MessageQueue:
    """Runs of messages that were received but not handed over yet. Thread-safe.

    It holds `capacity` messages or 32 MiB of payload, and at most one more run for each of the `takers` that fill it.
    Runs are cut into messages when they are handed over, so that reading a run from the kernel costs the same for one
    message as for sixty-four.

    With `Overflow.WAIT` it `is_full` from that bound on until half of it was handed over, so that the takers work in
    long strides; `reserve` returns nothing then. With the other policies it is never full: `put` drops, and counts
    `drops`.
    """

    def __init__(self, capacity: int, overflow: Overflow, takers: int = 1) -> None:
        self.datagrams: int = 0
        self.bytes: int = 0
        self.drops: int = 0
        self.is_full: bool = False
        self.depth: int = 0
        self.overflow = overflow
        self._capacity = options.whole_number("capacity", capacity, least=1, unit="messages")
        self._takers = takers
        self._reserved = NO_ROOM
        self._is_bounded = overflow is Overflow.WAIT
        self._lock = threading.Lock()
        self._has_room = threading.Condition(self._lock)
        self._runs: deque[Run] = deque()
        self._skip = 0  # messages of the first run that were handed over
        self._size = 0

    def reserve(self) -> Reservation:
        """Return how much to receive before the next `put`, which ends the reservation; nothing while full."""
        with self._lock:
            if self.is_full:
                return NO_ROOM
            calls = _CALLS // self._takers
            messages = _UNBOUNDED
            if self._is_bounded:
                # One call is always allowed: what others reserved may never arrive.
                calls = min(calls, max(1, (BYTES_MAX - self._size - self._reserved.calls * BUFFER) // BUFFER))
                messages = max(1, (self._capacity - self.depth - self._reserved.messages) // self._takers)
            self._reserved = Reservation(self._reserved.messages + messages, self._reserved.calls + calls)
            return Reservation(messages, calls)

    def put(self, runs: list[Run], reserved: Reservation) -> list[Question]:
        """Queue the runs, or drop by the policy; return the questions of what was dropped."""
        dropped: list[Question] = []
        with self._lock:
            self._reserved = Reservation(
                self._reserved.messages - reserved.messages, self._reserved.calls - reserved.calls
            )
            drops_newest = self.overflow is Overflow.DROP_NEWEST
            for run in runs:
                size = _size(run)
                self.datagrams += run.messages
                self.bytes += size - run.header * run.messages
                if drops_newest and self._is_over(self.depth, self._size):
                    self.drops += run.messages
                    if run.question is not None:
                        dropped.append(run.question)
                    continue
                self._runs.append(run)
                self.depth += run.messages
                self._size += size
            if self.overflow is Overflow.DROP_OLDEST:
                self._drop_oldest(dropped)
            elif self._is_bounded and self._is_over(self.depth, self._size):
                self.is_full = True
        return dropped

    def _is_over(self, depth: int, size: int) -> bool:
        return depth >= self._capacity or size >= BYTES_MAX

    def _drop_oldest(self, dropped: list[Question]) -> None:
        """Drop runs while the rest still fills the queue."""
        while self._runs:
            oldest = self._runs[0]
            count = oldest.messages - self._skip
            size = _size(oldest) - self._skip * oldest.segment
            if not self._is_over(self.depth - count, self._size - size):
                return
            self._runs.popleft()
            self._skip = 0
            self.drops += count
            self.depth -= count
            self._size -= size
            if oldest.question is not None:
                dropped.append(oldest.question)

    def take(self, limit: int) -> MessageBatch:
        """Return the oldest messages, at most `limit`; an empty list where there are none."""
        parts: list[tuple[Run, int, int, Gaps | None]] = []
        with self._lock:
            runs = self._runs
            left = min(limit, self.depth)
            self.depth -= left
            while left:
                run = runs[0]
                start = self._skip
                count = run.messages - start
                if count <= left:
                    runs.popleft()
                    self._skip = 0
                    self._size -= _size(run) - start * run.segment
                else:
                    count = left
                    self._skip += count
                    self._size -= count * run.segment
                left -= count
                parts.append((run, start, count, run.track and run.track.handed(start, count)))
            if self.is_full and self.depth <= self._capacity // 2 and self._size <= BYTES_MAX // 2:
                self._make_room()
        messages = MessageBatch()
        for run, start, count, gaps in parts:
            split(run, start, count, _sources[run.address], messages, gaps)
            if run.question is not None:
                messages.may_ask = True
        return messages

    def wait_for_room(self) -> None:
        """Block while it is full."""
        if self.is_full:
            with self._lock:
                while self.is_full:
                    self._has_room.wait()

    def lift(self) -> None:
        """Remove the bound: the takers are closing, and put what they still have."""
        with self._lock:
            self._is_bounded = False
            self._make_room()

    def _make_room(self) -> None:
        self.is_full = False
        self._has_room.notify_all()

    def clear(self, others: int = 0) -> list[Question]:
        """Drop everything queued, and count it with `others`; return the questions of what was dropped."""
        with self._lock:
            dropped = [run.question for run in self._runs if run.question is not None]
            self.drops += self.depth + others
            self._runs.clear()
            self.depth = self._skip = self._size = 0
            self._make_room()
        return dropped


def _size(run: Run) -> int:
    """Return the bytes of a run."""
    return len(run.data) if run.payloads is None else sum(map(len, run.payloads))


Gaps = list[tuple[int, int]]
"""Index and gap (`Message.gap`) of the messages that do not directly follow the one before."""


def split(run: Run, start: int, count: int, source: Endpoint, into: list[Message], gaps: Gaps | None = None) -> None:
    """Append `count` messages of the run, from index `start` on, copying each payload once."""
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
    """Return a struct that cuts a buffer into payloads, five times faster than slicing."""
    skip = f"{header}x" if header else ""
    return struct.Struct(f"{skip}{segment - header}s" * (count - 1) + f"{skip}{last - header}s")


class Sources(dict[tuple[Any, ...], Endpoint]):
    """The endpoint of each address that a socket reported, cached: creating one costs more than a datagram.

    At most 4,096 are kept.
    """

    def __missing__(self, address: tuple[Any, ...]) -> Endpoint:
        if len(self) >= _SOURCES_MAX:
            self.clear()
        self[address] = endpoint = Endpoint(sockaddr.plain(address[0]), address[1])
        return endpoint


_sources = Sources()
