"""Takes the probes of `fanout bench` out of what arrives, and answers them, unseen by the program."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fanout.net import pktinfo
from fanout.protocol.probe import MAGIC
from fanout.protocol.probe_log import ProbeLog
from fanout.protocol.receiving.run import Run
from fanout.receiver.reply_path import ReplyPath
from fanout.version import __version__


class ProbeFilter:
    """Passes all datagrams except probes, unchanged. Thread-safe.

    Answers leave by the socket on which the question came; a full socket drops them, and the prober asks again.
    """

    def __init__(self, drops: Callable[[], tuple[int, int]]) -> None:
        self._log = ProbeLog(__version__, drops)
        self._lock = threading.Lock()

    @property
    def probes(self) -> int:
        """Datagrams taken out."""
        return self._log.taken

    def sift(self, runs: list[Run], reply_path: ReplyPath) -> list[Run]:
        """Return the runs without probes, in order; answer the probes."""
        for run in runs:
            if MAGIC in run.data:
                return self._sift(runs, reply_path)
        return runs

    def _sift(self, runs: list[Run], reply_path: ReplyPath) -> list[Run]:
        kept: list[Run] = []
        now = time.monotonic()
        for run in runs:
            replies: list[bytes] = []
            messages: list[bytes] = []
            with self._lock:
                for start in range(0, len(run.data), run.segment or 1):
                    datagram = run.data[start : start + run.segment]
                    if not datagram.startswith(MAGIC):
                        messages.append(datagram)
                    elif (reply := self._log.take(datagram, now)) is not None:
                        replies.append(reply)
            if replies:
                reply_path.send(replies, run.address, pktinfo.answer_from(run.control))
            if len(messages) == run.messages or not run.data:
                kept.append(run)
            elif messages:
                # Only the last datagram of a run may be shorter than the others: that holds for a part of it, too.
                kept.append(run._replace(data=b"".join(messages), messages=len(messages), segment=len(messages[0])))
        return kept
