"""A receiver's state of framed messages, from their first fragment to their result. Pure, bounded."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fanout.errors import InvalidInput, MessageTooLarge
from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import (
    ANSWER_OVERHEAD,
    ASK,
    HEADER,
    MAGIC,
    MESSAGE_MAX,
    NUMBER_LIMIT,
    NUMBERED,
    QUERY,
    SENDER_AT,
    VERSION,
    AnswerStatus,
    Fragment,
    FrameKind,
    InvalidFrame,
    Mark,
    Pull,
)
from fanout.protocol.receiving.dedup import CONFIRMED, DedupTable, HandlingResult, Key, Peer
from fanout.protocol.receiving.reassembly import Partial, Reassembly
from fanout.protocol.receiving.replies import AnswerBuilder
from fanout.protocol.receiving.run import Run, Track, all_begin_alike, in_a_row, is_in_a_row, outer_numbers
from fanout.protocol.seal import OpenedRun, Sealer
from fanout.protocol.sequence import Arrival

PENDING_MAX = 16_384
"""Messages in fragments that were accepted and whose handler has not returned."""
NUMBERED_START = MAGIC + bytes((VERSION, FrameKind.NUMBERED))
"""The first bytes of each message of a numbered stream."""
_HEADER_SIZE = HEADER.size
_SENDER_AND_NUMBER = struct.Struct(f"!{SENDER_AT}xQQ")
_FRESH = (Arrival.NEW, Arrival.LATE)
_NO_REPLY = HandlingResult.failed("the handler did not reply")
_FORGOTTEN = b"it came too late to tell whether it was handed over before"


class Settler(Protocol):
    """What settles messages, outside the core. Thread-safe."""

    def settle(self, pending: PendingReply, result: HandlingResult) -> bool:
        """Record a message's result and send the answer; return False where it was settled before."""

    def release(self, pending: PendingReply) -> None:
        """Forget a message that will not be handed over."""


@dataclass(slots=True, eq=False)
class PendingReply:
    """A message whose sender may ask for its result, until it is settled: see `Question`. Thread-safe."""

    state: ReceiveState
    sender: int
    number: int
    is_query: bool
    wants_answer: bool
    """Whether the sender has asked so far."""
    attempt: int = 0
    """Of the question that waits for an answer."""
    size: int = 0
    """Its bytes; 0 where none waits."""
    is_open: bool = True
    """Whether it waits to be settled."""
    problem: str = ""
    """Why its reply was not sent."""
    # Set outside the core, which does not know how to answer.
    settler: Settler = field(init=False)
    send: Callable[[list[bytes]], None] = field(init=False)
    """Sends answers back to where the message came from."""

    @property
    def wants_reply(self) -> bool:
        """Whether it is a query that has not been answered."""
        return self.is_query and self.is_open

    def reply(self, payload: bytes) -> None:
        """Answer a query; see `Message.reply`."""
        if not isinstance(payload, (bytes, bytearray, memoryview)):
            raise InvalidInput(f"reply must be bytes: encode it first; got {type(payload).__name__}")
        data = bytes(payload)
        if len(data) > MESSAGE_MAX:
            raise MessageTooLarge(f"reply must be at most {MESSAGE_MAX:,} bytes; got {len(data):,}")
        if not self.is_query:
            raise InvalidInput("cannot reply: the message is not a query")
        if not self.settler.settle(self, HandlingResult.replied(data)):
            raise InvalidInput(
                "cannot reply: the query was answered before; reply once, before the next message is taken"
            )

    def confirm(self) -> None:
        """Report it as handled, or a query as failed for want of a reply; does nothing where it is settled."""
        if self.is_open:
            self.settler.settle(self, _NO_REPLY if self.is_query else CONFIRMED)

    def fail(self, reason: str) -> None:
        """Report that its handler failed; does nothing where it is settled."""
        if self.is_open:
            self.settler.settle(self, HandlingResult.failed(reason))

    def release(self) -> None:
        """Report that it will not be handed over: accept it again where it is sent again."""
        self.settler.release(self)


@dataclass(slots=True)
class Taken:
    """What to do about a run of datagrams."""

    drops: Counter[ReceiveDrop]
    """What was not handed over since the receiver was opened, by reason."""
    runs: list[Run] = field(default_factory=list)
    """Messages to hand over."""
    pending: list[PendingReply] = field(default_factory=list)
    """Those of the messages whose senders may ask for the result."""
    answers: list[bytes] = field(default_factory=list)
    """Answers to send to the source at once."""
    refusals: dict[ReceiveDrop, str] = field(default_factory=dict)
    """A sentence for each reason why some were not handed over, for the log."""

    def refuse(self, reason: ReceiveDrop, sentence: str, count: int = 1) -> None:
        """Count datagrams that are not handed over."""
        self.drops[reason] += count
        self.refusals[reason] = sentence


class ReceiveState:
    """The state of plain frames, or of sealed ones.

    Each has its own, so that a stranger can neither evict sealed messages nor pose as their sender. `sealer` seals the
    answers. Replies may be larger than their question only where they are sealed, or with `replies_to_anyone`.
    """

    def __init__(self, identity: int, replies_to_anyone: bool, sealer: Sealer | None = None) -> None:
        self.table: DedupTable = DedupTable(is_sealed=sealer is not None)
        self.reassembly: Reassembly = Reassembly()
        self.builder: AnswerBuilder = AnswerBuilder(identity, replies_to_anyone or sealer is not None)
        self.sealer = sealer
        self.confirmations: int = 0
        self.failures: int = 0

    # What arrives.

    def take_stream(self, run: Run, taken: Taken) -> bool:
        """Take numbered messages of one sender; return False where not all of them are."""
        data, segment, count = run[:3]
        if min(segment, len(data) - (count - 1) * segment) < _HEADER_SIZE:
            return False
        sender, first = _SENDER_AND_NUMBER.unpack_from(data)
        is_row = count == 1 or is_in_a_row(data, segment, count)
        if is_row and (track := self._go_on(sender, first, count)):
            taken.runs.append(Run(data, segment, count, run.address, run.received_at, _HEADER_SIZE, track))
            return True
        if not all_begin_alike(data, segment, count):
            return False
        return self._take_numbers(run, sender, outer_numbers(segment, count).unpack_from(data), _HEADER_SIZE, taken)

    def take_opened_stream(self, opened: OpenedRun, run: Run, taken: Taken) -> bool:
        """Take numbered messages of one sender that were sealed; return False where a number is invalid."""
        numbers, bodies = opened.numbers, opened.bodies
        first, count, size = numbers[0], len(numbers), len(bodies[0])
        if numbers == tuple(range(first, first + count)) and (track := self._go_on(opened.sender, first, count)):
            taken.runs.append(Run(b"", size, count, run.address, run.received_at, track=track, payloads=bodies))
            return True
        joined = Run(b"".join(bodies), size, count, run.address, run.received_at)
        return self._take_numbers(joined, opened.sender, numbers, 0, taken)

    def _go_on(self, sender: int, first: int, count: int) -> Track | None:
        """Record consecutive numbers above all before; return None, and record nothing, where they are not."""
        if not 1 <= first < NUMBER_LIMIT - count:
            return None
        peer = self.table.peer(sender, first)
        if first < peer.sequence.expected:
            return None
        self.table.run_arrived(peer, first, count)
        return Track(peer.hand_over, first)

    def _take_numbers(self, run: Run, sender: int, numbers: tuple[int, ...], header: int, taken: Taken) -> bool:
        """Take messages with these numbers, their payloads `header` bytes in; return False on an invalid number."""
        data, segment, count = run[:3]
        first, table = numbers[0], self.table
        if numbers == tuple(range(first, first + count)) and 1 <= first < NUMBER_LIMIT - count:
            cuts = [(0, count)]
        elif all(1 <= number < NUMBER_LIMIT for number in numbers):
            cuts = in_a_row(numbers)
        else:
            return False

        def hand_over(start: int, stop: int) -> None:
            part = data if stop - start == count else data[start * segment : stop * segment]
            track = Track(peer.hand_over, numbers[start])
            size = min(segment, len(part))
            taken.runs.append(Run(part, size, stop - start, run.address, run.received_at, header, track))

        for start, stop in cuts:
            peer = table.peer(sender, numbers[start])
            if numbers[start] >= peer.sequence.expected:
                table.run_arrived(peer, numbers[start], stop - start)
                hand_over(start, stop)
                continue
            for index in range(start, stop):
                arrival = peer.state(numbers[index])
                if arrival in _FRESH:
                    table.arrived(peer, numbers[index], True)
                    hand_over(index, index + 1)
                else:
                    self._came_before(peer, numbers[index], arrival, True, taken)
        return True

    def _came_before(self, peer: Peer, number: int, arrival: Arrival, numbered: bool, taken: Taken) -> None:
        """Count a message that arrived before, or may have."""
        if arrival is Arrival.STALE:
            taken.refuse(ReceiveDrop.TOO_OLD, f"number {number} is too far behind the highest")
            return
        taken.drops[ReceiveDrop.DUPLICATE] += 1
        if numbered:
            peer.counts.duplicates += 1

    def take_frame(self, run: Run, now: float, taken: Taken) -> None:
        """Take a run of one datagram: a plain frame, or one that was opened."""
        if run.data.startswith(NUMBERED_START) and self.take_stream(run, taken):
            return
        try:
            decoded = frame.decode(run.data)
        except InvalidFrame as refused:
            taken.refuse(refused.reason, str(refused))
            return
        answers: list[bytes] = []
        if isinstance(decoded, Fragment):
            answers = self._take_fragment(decoded, run, now, taken)
        elif isinstance(decoded, Mark):
            self.table.marked(self.table.peer(decoded.sender, decoded.number), *decoded[1:])
        elif isinstance(decoded, Pull) and self.builder.replies_to_anyone:
            answers = self._pulled(decoded, taken)
        else:
            taken.refuse(ReceiveDrop.UNEXPECTED, f"a receiver does not take this {type(decoded).__name__.lower()}")
        taken.answers += answers if self.sealer is None else self.sealer.seal_many(answers, run.received_at)

    def _take_fragment(self, fragment: Fragment, run: Run, now: float, taken: Taken) -> list[bytes]:
        """Take a part of a message, or all of it; return the answers."""
        table, answer, size = self.table, self.builder.answer, len(run.data)
        key = (fragment.sender, fragment.number)
        asks = bool(fragment.flags & ASK)
        pending: PendingReply | None = table.pending.get(key)
        if pending is not None:
            taken.drops[ReceiveDrop.DUPLICATE] += 1
            pending.wants_answer |= asks
            return [answer(fragment, size, AnswerStatus.PENDING)] if asks else []
        result = table.results.get(key)
        if result is not None:
            taken.drops[ReceiveDrop.DUPLICATE] += 1
            return self.builder.result(result, fragment, size) if asks else []
        peer = table.peer(fragment.sender, fragment.number)
        numbered = bool(fragment.flags & NUMBERED)
        # An incomplete message was certainly not handed over before, however late the rest is.
        if key not in self.reassembly.partial and (arrival := peer.state(fragment.number)) not in _FRESH:
            self._came_before(peer, fragment.number, arrival, numbered, taken)
            return [answer(fragment, size, AnswerStatus.REFUSED, _FORGOTTEN)] if asks else []
        if len(table.pending) >= PENDING_MAX:
            # No answer: it is asked again, later and later.
            taken.refuse(ReceiveDrop.NO_ROOM, "too many messages wait for their handlers")
            return []
        payload, wants_answer = fragment.payload, asks
        if fragment.total > fragment.size:
            partial = self._keep_part(key, fragment, now, taken)
            if partial is None:
                return []
            if partial.missing:
                if not asks:
                    return []
                first, present = partial.gaps(size - ANSWER_OVERHEAD)
                return [answer(fragment, size, AnswerStatus.PARTIAL, present, first)]
            payload, wants_answer = partial.payload(), partial.is_asked
        table.arrived(peer, fragment.number, numbered)
        pending = PendingReply(self, *key, bool(fragment.flags & QUERY), wants_answer)
        if asks:
            pending.attempt, pending.size = fragment.attempt, size
        table.pending[key] = pending
        track = Track(peer.hand_over, fragment.number) if numbered else None
        taken.pending.append(pending)
        taken.runs.append(Run(payload, len(payload), 1, run.address, run.received_at, 0, track, pending))
        return []

    def _keep_part(self, key: Key, fragment: Fragment, now: float, taken: Taken) -> Partial | None:
        """Keep a fragment and return its message; None where the fragment does not fit the others.

        A complete message is not kept.
        """
        partial = self.reassembly.find(key, fragment)
        if partial is None:
            taken.refuse(ReceiveDrop.MALFORMED, "its sizes differ from those of the message's other fragments")
            return None
        if not self.reassembly.take(key, partial, fragment, now):
            taken.refuse(ReceiveDrop.NO_ROOM, "the fragments of other messages fill the memory for them")
        if not partial.missing:
            self.reassembly.remove(key)
        return partial

    def _pulled(self, pull: Pull, taken: Taken) -> list[bytes]:
        """Return the fragments of a reply that are pulled."""
        result = self.table.results.get((pull.sender, pull.number))
        if result is None or result.reply is None:
            taken.refuse(ReceiveDrop.UNEXPECTED, "it asks for a reply that is not kept")
            return []
        return self.builder.parts(result.reply, pull)

    # What becomes of it.

    def settle(self, pending: PendingReply, result: HandlingResult, epoch: float) -> list[bytes]:
        """Record a message's result; return what to send, nothing where it was settled before."""
        if not pending.is_open:
            return []
        if result.reply is not None and pending.size:
            pending.problem = self.builder.why_no_reply(len(result.reply.payload), pending.size)
            if pending.problem:
                result = HandlingResult.failed(pending.problem)
        if result.status is AnswerStatus.FAILED:
            self.failures += pending.wants_answer
        elif result.reply is None:
            self.confirmations += pending.wants_answer
        pending.is_open = False
        self.table.settle((pending.sender, pending.number), result)
        if not pending.size:
            return []
        answers = self.builder.result(result, pending, pending.size)
        return answers if self.sealer is None else self.sealer.seal_many(answers, epoch)

    def release(self, pending: PendingReply) -> None:
        """Forget a message that will not be handed over: accept it again where it is sent again."""
        if pending.is_open:
            pending.is_open = False
            self.table.release((pending.sender, pending.number))
