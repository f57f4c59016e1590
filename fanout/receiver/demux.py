"""Where what arrives is looked at: plain datagrams pass, probes and frames are taken and answered."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
import weakref
from typing import Any, NamedTuple

from fanout.errors import InvalidInput, MessageTooLarge
from fanout.limiter import LimitedLogger
from fanout.net import sockaddr
from fanout.net.gro import BUFFER, Run
from fanout.net.key_file import KeyFile
from fanout.protocol import frame, probe
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.receiving.dedup import SenderCounts
from fanout.protocol.receiving.reception import Reception
from fanout.protocol.receiving.run import Taken, Ticket
from fanout.protocol.seal import SEALED_STREAM
from fanout.receiver.probe_filter import ProbeFilter
from fanout.receiver.reply_path import ReplyPath, Route

log = logging.getLogger("fanout")

_FIRST = 0xFF
"""What frames and probes begin with."""
_TELLS_AT = 2
_TELLS_FRAME, _TELLS_PROBE = frame.MAGIC[_TELLS_AT], probe.MAGIC[_TELLS_AT]
_STREAMS = (frame.MAGIC + bytes((frame.VERSION, frame.FrameKind.NUMBERED)), SEALED_STREAM)
_MERGED_MOST = 256
_LINES = 5  # a second
_NO_REPLY = "the handler did not reply"


class OpenQuestion:
    """A message whose sender may ask what became of it, until it is settled; safe to use from any thread."""

    __slots__ = ("_demux", "ticket")

    def __init__(self, demux: Demux, ticket: Ticket) -> None:
        self._demux = demux
        self.ticket = ticket

    @property
    def wants_reply(self) -> bool:
        """Whether it is a query that was not answered yet."""
        return self.ticket.wants_reply and self.ticket.is_open

    def reply(self, payload: bytes) -> None:
        """Answer a query; see `Message.reply`."""
        if not isinstance(payload, (bytes, bytearray, memoryview)):
            raise InvalidInput(f"a reply is bytes, not {type(payload).__name__}: encode it first")
        data = bytes(payload)
        if len(data) > frame.MESSAGE_MAX:
            raise MessageTooLarge(f"the reply has {len(data):,} bytes; at most {frame.MESSAGE_MAX:,} can be sent")
        if not self.ticket.wants_reply:
            raise InvalidInput("the message asks for no reply: it is no query")
        if not self._demux.replied(self.ticket, data):
            raise InvalidInput(
                "the query was answered before: it has one reply, and none once the next one is asked for"
            )

    def confirm(self) -> None:
        """Say that the message was handled, or of a query that it was not replied to; nothing where it is settled."""
        if self.ticket.wants_reply:
            self._demux.failed(self.ticket, _NO_REPLY)
        else:
            self._demux.confirmed(self.ticket)

    def fail(self, reason: str) -> None:
        """Say that the handler failed; nothing where it is settled."""
        self._demux.failed(self.ticket, reason)

    def release(self) -> None:
        """Say that nobody will get the message: where it comes again, it is taken again."""
        self._demux.release(self.ticket)


_desks: weakref.WeakSet[Demux] = weakref.WeakSet()


def _forked() -> None:
    for demux in list(_desks):
        demux.start_anew()


os.register_at_fork(after_in_child=_forked)


class Demux:
    """Takes frames and probes out of what arrives, and answers them; any thread may call anything.

    What passes are datagrams that are neither, as they came, and the messages that were in frames. Ordinary datagrams
    cost one look at the first byte of each. Answers leave by the socket on which the question came, to the address
    from which it came.
    """

    def __init__(self, reception: Reception, probe_filter: ProbeFilter, keys: KeyFile | None = None) -> None:
        self._reception = reception
        self._probe_filter = probe_filter
        self._keys = keys
        self._lock = threading.Lock()
        self.answering = threading.RLock()
        """Held while it is settled what a sender is told and until that has left, and while the sockets are closed."""
        self._warn_refused = LimitedLogger(log.warning, _LINES)
        self._warn_not_sent = LimitedLogger(log.warning, _LINES)
        _desks.add(self)

    def start_anew(self) -> None:
        """Be one of its own in a process that was forked: two of one identity would seal with the same nonces."""
        self._lock = threading.Lock()
        self.answering = threading.RLock()
        self._reception.rename(secrets.randbits(64), time.time_ns())

    @property
    def probes(self) -> int:
        """Probes that were taken out."""
        return self._probe_filter.probes

    def sift(self, runs: list[Run], reply_path: ReplyPath) -> list[Run]:
        """Return what to hand over, in its order."""
        if self._reception.takes_plaintext:
            for run in runs:
                data, segment = run[:2]
                if data and (data[0] == _FIRST or (len(data) > segment and _FIRST in data[::segment])):
                    break
            else:
                return runs
        kept: list[Run] = []
        now = time.monotonic()
        with self._lock:
            self._reception.give_up(now)
            if self._keys is not None:
                self._reception.use(self._keys.keyring())
        for run in _merged(runs):
            self._sift(run, reply_path, now, kept)
        return kept

    def _sift(self, run: Run, reply_path: ReplyPath, now: float, kept: list[Run]) -> None:
        reception = self._reception
        if reception.takes_plaintext:
            tells = run.data[_TELLS_AT :: run.segment or 1]
            if _TELLS_PROBE in tells:
                for rest in self._probe_filter.sift([run], reply_path):
                    run = rest
                    break
                else:
                    return
            if _TELLS_FRAME not in tells:
                kept.append(run)
                return
        with self._lock:
            taken = reception.take(run.data, run.segment, run.messages, None, now, run.received_at)
        if taken.answers:
            reply_path.route(run.address, run.control).send(taken.answers)
        if taken.refusals:
            self._tell(taken, run.address, now)
        for data, segment, messages, header, track, ticket, payloads in taken.parcels:
            question = None
            if ticket is not None:
                ticket.route = reply_path.route(run.address, run.control)
                question = OpenQuestion(self, ticket)
            made = (data, segment, messages, run.address, run.received_at, header, track, question, None, payloads)
            kept.append(tuple.__new__(Run, made))  # see `gro.receive`

    def _tell(self, taken: Taken, address: tuple[Any, ...], now: float) -> None:
        for reason, sentence in taken.refusals.items():
            source = f"{sockaddr.plain(address[0])} port {address[1]}"
            self._warn_refused(
                now,
                "frame_refused: %(reason)s, from %(source)s: %(sentence)s",
                {"reason": str(reason), "source": source, "sentence": sentence},
            )

    def confirmed(self, ticket: Ticket) -> None:
        """Answer that the message was handled."""
        with self.answering:
            with self._lock:
                answers = self._reception.confirmed(ticket, time.time())
            _send(ticket, answers)

    def failed(self, ticket: Ticket, reason: str) -> None:
        """Answer that its handler failed."""
        with self.answering:
            with self._lock:
                answers = self._reception.failed(ticket, reason, time.time())
            _send(ticket, answers)

    def replied(self, ticket: Ticket, payload: bytes) -> bool:
        """Answer a query; False where it was answered before."""
        with self.answering:
            with self._lock:
                if not ticket.is_open:
                    return False
                answers = self._reception.replied(ticket, payload, time.time())
            _send(ticket, answers)
        if ticket.problem:
            self._warn_not_sent(time.monotonic(), "reply_not_sent: %(problem)s", {"problem": ticket.problem})
        return True

    def release(self, ticket: Ticket) -> None:
        """Take a message back that nobody will get."""
        with self._lock:
            self._reception.release(ticket)

    @property
    def has_pending(self) -> bool:
        """Whether messages were handed over or queued whose senders may ask for them."""
        return self._reception.has_pending

    def counts(self) -> DemuxCounts:
        """Return what it has done so far."""
        reception = self._reception
        with self._lock:
            reception.give_up(time.monotonic())
            return DemuxCounts(
                reception.skipped,
                reception.reordered,
                reception.duplicates,
                {reason: count for reason, count in reception.counts.items() if count},
                reception.confirmations,
                reception.failures,
                reception.replies,
            )

    def senders(self) -> list[SenderCounts]:
        """Return what came of each sender of frames."""
        with self._lock:
            return self._reception.senders()


def _merged(runs: list[Run]) -> list[Run]:
    """Merge runs of streams as the kernel merges datagrams: a long run costs little more than a short one."""
    merged: list[Run] = []
    alike: list[Run] = []
    messages = 0
    for run in runs:
        data, segment, count, address, *_ = run
        # Only a run whose last datagram is as long as the others can be gone on with.
        if not data.startswith(_STREAMS) or len(data) != segment * count:
            merged += _joined(alike)
            merged.append(run)
            alike, messages = [], 0
            continue
        if alike:
            first = alike[0]
            most = min(_MERGED_MOST, BUFFER // segment)
            if segment != first.segment or messages + count > most or address != first.address:
                merged += _joined(alike)
                alike, messages = [], 0
        alike.append(run)
        messages += count
    return merged + _joined(alike)


def _joined(alike: list[Run]) -> list[Run]:
    """Return the runs as one."""
    if len(alike) < 2:
        return alike
    return [
        alike[0]._replace(data=b"".join([run.data for run in alike]), messages=sum([run.messages for run in alike]))
    ]


def _send(ticket: Ticket, answers: list[bytes]) -> None:
    """Send what is answered about a message to where the question came from."""
    if answers:
        route: Route = ticket.route
        route.send(answers)


class DemuxCounts(NamedTuple):
    """What came in frames, and what became of it: see `ReceiverStats`."""

    skipped: int
    reordered: int
    duplicates: int
    refused: dict[ReceiveDrop, int]
    confirmed: int
    failed: int
    replied: int


NOTHING = DemuxCounts(0, 0, 0, {}, 0, 0, 0)
