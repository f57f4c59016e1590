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

    def sift(self, run: Run, reply_path: ReplyPath) -> Run | None:
        """Return the run without its probes, which are answered; None where nothing else is in it."""
        if MAGIC not in run.data:
            return run
        now = time.monotonic()
        replies: list[bytes] = []
        messages: list[bytes] = []
        with self._lock:
            for start in range(0, len(run.data), run.segment):
                datagram = run.data[start : start + run.segment]
                if not datagram.startswith(MAGIC):
                    messages.append(datagram)
                elif (reply := self._log.take(datagram, now)) is not None:
                    replies.append(reply)
        if replies:
            reply_path.send(replies, run.address, pktinfo.answer_from(run.control))
        if not messages:
            return None
        # Only the last datagram of a run may be shorter than the others: that holds for a part of it, too.
        return run._replace(data=b"".join(messages), messages=len(messages), segment=len(messages[0]))
