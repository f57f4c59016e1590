"""Peers that answer the probes of `fanout bench`, as they should or otherwise."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fanout.model import Endpoint
from fanout.wire import probe
from fanout.wire.probe_log import ProbeLog

Answer = Callable[[bytes, ProbeLog], list[bytes]]


def honest(datagram: bytes, log: ProbeLog) -> list[bytes]:
    reply = log.take(datagram, time.monotonic())
    return [] if reply is None else [reply]


@contextmanager
def peer(answer: Answer, host: str = "127.0.0.31", replies_from: str | None = None) -> Iterator[str]:
    """Answer probes as `answer` says, until the test ends; yield the endpoint."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ended = threading.Event()
    log = ProbeLog("9.9.9", lambda: (0, 0))

    def serve() -> None:
        while not ended.is_set():
            try:
                datagram, source = listening.recvfrom(65_535)
            except TimeoutError:
                continue
            for reply in answer(datagram, log):
                (other if replies_from else listening).sendto(reply, source)

    with listening, other:
        listening.bind((host, 0))
        other.bind((replies_from or host, 0))
        listening.settimeout(0.05)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield str(Endpoint(*listening.getsockname()))
        finally:
            ended.set()
            thread.join()


def wrong_run(datagram: bytes, log: ProbeLog) -> list[bytes]:
    return [reply[:12] + bytes(8) + reply[20:] for reply in honest(datagram, log)]


def truncated(datagram: bytes, log: ProbeLog) -> list[bytes]:
    return [reply[:27] for reply in honest(datagram, log)] + [reply[:-1] for reply in honest(datagram, log)]


def garbage(datagram: bytes, log: ProbeLog) -> list[bytes]:
    return [os.urandom(64), b"", datagram, probe.MAGIC]


def unasked(datagram: bytes, log: ProbeLog) -> list[bytes]:
    """Answer tokens that were never given."""
    return [reply[:20] + os.urandom(8) + reply[28:] for reply in honest(datagram, log)]
