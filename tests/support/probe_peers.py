"""Peers that answer the probes of `fanout bench`, as they should or otherwise; and a bench that waits for them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest import mock

from fanout.measure import session
from fanout.measure.prober import PATIENCE, Prober
from fanout.measure.session import Bench
from fanout.model import Endpoint
from fanout.protocol import probe
from fanout.protocol.probe_log import ProbeLog
from tests.support.cli import Run, invoke
from tests.support.waiting import until

Answer = Callable[[bytes, ProbeLog], list[bytes]]
_clock = count()


def honest(datagram: bytes, log: ProbeLog) -> list[bytes]:
    reply = log.take(datagram, next(_clock) / 1000)
    return [] if reply is None else [reply]


@contextmanager
def peer(answer: Answer, host: str = "127.0.0.31", replies_from: str | None = None) -> Iterator[str]:
    """Answer probes as `answer` says, until the test ends; yield the endpoint."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ended = threading.Event()
    log = ProbeLog("9.9.9", lambda: (0, 0))

    def serve() -> None:
        while True:
            datagram, source = listening.recvfrom(65_535)
            if ended.is_set():
                return
            for reply in answer(datagram, log):
                (other if replies_from else listening).sendto(reply, source)

    with listening, other:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        listening.bind((host, 0))
        other.bind((replies_from or host, 0))
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield str(Endpoint(*listening.getsockname()))
        finally:
            ended.set()
            other.sendto(b"", listening.getsockname())
            thread.join()


@contextmanager
def patiently(
    silent: Collection[str] = (),
    *,
    messages: int = 0,
    going_on: Callable[[Bench], object] = lambda bench: True,
    heard: Callable[[Prober], object] = lambda prober: True,
) -> Iterator[None]:
    """Let `fanout bench` in this process wait for all pods but the silent ones, however long they take.

    Before each message of the stream, and before its end, it waits until `going_on` is so. It asks for the last
    reports until all but the silent have counted so many messages and `heard` is so. There is no other time in which
    something has to come.
    """
    ask, payloads = Prober.ask, Bench._payloads

    def asking(prober: Prober, endpoints: Iterable[Endpoint], patience: Sequence[float] | None = None) -> object:
        named = list(endpoints)
        answering = [endpoint for endpoint in named if str(endpoint) not in silent]
        others = [endpoint for endpoint in named if str(endpoint) in silent]

        def asked() -> list[list[Endpoint]]:
            missing = ask(prober, answering, (1.0,) * 60)
            # As often as it does, but sooner.
            missing += ask(prober, others, [seconds / 100 for seconds in patience or PATIENCE])
            reports = [prober.pods[endpoint].observed for endpoint in answering]
            is_whole = all(seen is not None and seen.received >= messages for seen in reports)
            return [missing] if patience is not None or (is_whole and heard(prober)) else []

        return until(asked, "the last reports")[0]

    def flowing(bench: Bench) -> Iterator[bytes]:
        for payload in payloads(bench):
            until(lambda: going_on(bench), "the next message of the stream")
            yield payload
        until(lambda: going_on(bench), "the end of the stream")

    with (
        mock.patch.object(session, "_SETTLE", 0.0),
        mock.patch.object(Prober, "ask", asking),
        mock.patch.object(Bench, "_payloads", flowing),
    ):
        yield


def bench(
    service: str,
    *arguments: str,
    silent: Collection[str] = (),
    messages: int | None = None,
    **waiting: Callable[..., object],
) -> Run:
    """Run `fanout bench` in this process, which waits for all but the silent, and for all messages: see `patiently`."""
    if messages is None:
        messages = int(arguments[arguments.index("--count") + 1]) if "--count" in arguments else 0
    with patiently(silent, messages=messages, **waiting):
        return invoke("bench", "-s", service, *arguments)


def has_ignored(prober: Prober) -> bool:
    """Whether a reply has come that was not believed."""
    return prober.ignored > 0


def endpoint_of(peer: str) -> Endpoint:
    """Return where a `peer` listens, as a value."""
    host, _, port = peer.rpartition(":")
    return Endpoint(host, int(port))


def by_endpoint(measured: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {pod["endpoint"]: pod for pod in measured["endpoints"]}


def only(measured: dict[str, Any]) -> dict[str, Any]:
    (pod,) = measured["endpoints"]
    assert isinstance(pod, dict)
    return pod


def wrong_run(datagram: bytes, log: ProbeLog) -> list[bytes]:
    return [reply[:12] + bytes(8) + reply[20:] for reply in honest(datagram, log)]


def truncated(datagram: bytes, log: ProbeLog) -> list[bytes]:
    return [reply[:27] for reply in honest(datagram, log)] + [reply[:-1] for reply in honest(datagram, log)]


def garbage(datagram: bytes, log: ProbeLog) -> list[bytes]:
    return [os.urandom(64), b"", datagram, probe.MAGIC]


def unasked(datagram: bytes, log: ProbeLog) -> list[bytes]:
    """Answer tokens that were never given."""
    return [reply[:20] + os.urandom(8) + reply[28:] for reply in honest(datagram, log)]
