"""Separates what arrives: plain datagrams pass, probes and frames are taken and answered."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
import weakref
from functools import partial
from typing import Any

from fanout.limiter import LimitedLogger
from fanout.net import pktinfo, sockaddr
from fanout.net.gro import BUFFER
from fanout.net.key_file import KeyFile
from fanout.protocol import frame, probe
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.receiving.dedup import HandlingResult, SenderCounts
from fanout.protocol.receiving.receive_state import PendingReply
from fanout.protocol.receiving.reception import FrameCounts, Reception
from fanout.protocol.receiving.run import Run
from fanout.protocol.seal import SEALED_STREAM
from fanout.receiver.probe_filter import ProbeFilter
from fanout.receiver.reply_path import ReplyPath

log: logging.Logger = logging.getLogger("fanout")

_FIRST = 0xFF
"""The first byte of frames and probes."""
_MARK_AT = 2
_FRAME_MARK, _PROBE_MARK = frame.MAGIC[_MARK_AT], probe.MAGIC[_MARK_AT]
"""The byte that distinguishes them."""
_STREAMS = (frame.MAGIC + bytes((frame.VERSION, frame.FrameKind.NUMBERED)), SEALED_STREAM)
_MERGED_MOST = 256
_LINES = 5  # a second


_demuxes: weakref.WeakSet[Demux] = weakref.WeakSet()


def _forked() -> None:
    for demux in list(_demuxes):
        demux.start_anew()


os.register_at_fork(after_in_child=_forked)


class Demux:
    """Takes frames and probes out of what arrives, and answers them. Thread-safe.

    All other datagrams pass unchanged, and the messages in frames pass, too. Ordinary datagrams cost a check of their
    first byte. Answers leave by the socket on which the question came, to its source address.
    """

    def __init__(self, reception: Reception, probe_filter: ProbeFilter, keys: KeyFile | None = None) -> None:
        self._reception = reception
        self._probe_filter = probe_filter
        self._keys = keys
        self._lock = threading.Lock()
        self.answering: threading.RLock = threading.RLock()
        """Held while a message is settled, until its answer has left, and while the sockets are closed."""
        self._warn_refused = LimitedLogger(log.warning, _LINES)
        self._warn_not_sent = LimitedLogger(log.warning, _LINES)
        _demuxes.add(self)

    def start_anew(self) -> None:
        """Become independent in a forked process: two with one identity would seal with the same nonces."""
        self._lock = threading.Lock()
        self.answering = threading.RLock()
        self._reception.rename(secrets.randbits(64), time.time_ns())

    @property
    def probes(self) -> int:
        """Probes taken out."""
        return self._probe_filter.probes

    def sift(self, runs: list[Run], reply_path: ReplyPath) -> list[Run]:
        """Return what to hand over, in order."""
        if self._reception.takes_plaintext:
            for run in runs:
                data, segment = run[:2]
                if data and (data[0] == _FIRST or (len(data) > segment and _FIRST in data[::segment])):
                    break
            else:
                return runs
        if self._keys is not None:
            with self._lock:
                self._reception.use(self._keys.keyring())
        kept: list[Run] = []
        now = time.monotonic()
        for run in _merged(runs) if len(runs) > 1 else runs:
            self._sift(run, reply_path, now, kept)
        return kept

    def _sift(self, run: Run, reply_path: ReplyPath, now: float, kept: list[Run]) -> None:
        if self._reception.takes_plaintext:
            marks = run.data[_MARK_AT :: run.segment or 1]
            if _PROBE_MARK in marks:
                rest = self._probe_filter.sift(run, reply_path)
                if rest is None:
                    return
                run = rest
            if _FRAME_MARK not in marks:
                kept.append(run)
                return
        with self._lock:
            taken = self._reception.take(run, now)
        if taken.answers or taken.pending:
            source = pktinfo.answer_from(run.control) if run.control else []
            send = partial(reply_path.send, address=run.address, source=source)
            if taken.answers:
                send(taken.answers)
            for pending in taken.pending:
                pending.settler, pending.send = self, send
        if taken.refusals:
            self._log_refusals(taken.refusals, run.address, now)
        kept += taken.runs

    def _log_refusals(self, refusals: dict[ReceiveDrop, str], address: tuple[Any, ...], now: float) -> None:
        for reason, sentence in refusals.items():
            source = f"{sockaddr.plain(address[0])} port {address[1]}"
            self._warn_refused(
                now,
                "frame_refused: %(reason)s, from %(source)s: %(sentence)s",
                {"reason": str(reason), "source": source, "sentence": sentence},
            )

    def settle(self, pending: PendingReply, result: HandlingResult) -> bool:
        """Record a message's result, and answer; return False, and do nothing, where it was settled before."""
        with self.answering:
            with self._lock:
                if not pending.is_open:
                    return False
                answers = pending.state.settle(pending, result, time.time())
            if answers:
                pending.send(answers)
        if pending.problem:
            self._warn_not_sent(time.monotonic(), "reply_not_sent: %(problem)s", {"problem": pending.problem})
        return True

    def release(self, pending: PendingReply) -> None:
        """Forget a message that will not be handed over."""
        with self._lock:
            pending.state.release(pending)

    @property
    def has_pending(self) -> bool:
        """Whether messages to be confirmed are queued or handed over."""
        return self._reception.has_pending

    def counts(self) -> FrameCounts:
        """Give up the messages that will not be completed, and return the counts so far."""
        with self._lock:
            self._reception.give_up(time.monotonic())
            return self._reception.counts

    def senders(self) -> list[SenderCounts]:
        """Return the counts of each sender of frames."""
        with self._lock:
            return self._reception.senders()


def _merged(runs: list[Run]) -> list[Run]:
    """Merge runs of streams as the kernel does datagrams: a long run costs little more than a short one."""
    merged: list[Run] = []
    alike: list[Run] = []
    messages = 0
    for run in runs:
        data, segment, count, address, *_ = run
        # Only a run whose last datagram is as long as the others can be continued.
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
