"""Messages a second from one sender into the Python code of one receiver, each as fast as it goes."""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import fanout
from benchmarks.contenders import starting
from benchmarks.lab import PORT, Lab
from benchmarks.rows import BenchPart, Row, Spread, Table, si
from benchmarks.sending import Tell
from benchmarks.talk import Helper, python, receiving_core, sending_core

SIZE = 200
REPEATS = 5
PACE_REPEATS = 2
_SECONDS = 1.0
_PACED_SECONDS = 0.3
_SLOWEST, _FASTEST, _STEPS = 5_000, 4_000_000, 8
_KEPT = 0.99
"""What counts as kept: a default buffer does not outlast each hiccup of a shared machine."""
_BURST = 10_000
_BASE = "recvfrom loop"
_CHANCES = 2
_BUFFERED = "recvfrom loop, 4 MiB buffer"
_WAYS = {
    _BASE: ("recvfrom", starting.LOOP),
    _BUFFERED: ("recvfrom-buffer", starting.LOOP),
    "stock asyncio protocol": ("asyncio", starting.LOOP),
    "fanout.Receiver": ("receiver", starting.LIST),
    "fanout.Receiver.batches()": ("batches", starting.LIST),
    "fanout.AsyncReceiver": ("async", starting.LIST),
    "fanout.AsyncReceiver.batches()": ("async-batches", starting.LIST),
}


class StreamResult(NamedTuple):
    """One sender, one receiver, as fast as they go."""

    sent: int
    sending: int
    """Nanoseconds that the sender took."""
    kept: int
    wall: int
    cpu: int


def measure(lab: Lab, tell: Tell, *, quick: bool = False) -> BenchPart:
    """Feed each receiver in turn."""
    lab.grow(1)
    ways = {
        name: way
        for name, way in _WAYS.items()
        if not name.endswith("batches()") or hasattr(getattr(fanout, name.split(".")[1]), "batches")
    }
    streams: dict[str, list[StreamResult]] = defaultdict(list)
    for repeat in range(2 if quick else REPEATS):
        tell(f"end to end: {repeat + 1} of {REPEATS}")
        for name, (receiver, feeder) in ways.items():
            streams[name].append(stream(lab, receiver, feeder, full_speed))
    results = []
    for name, (receiver, feeder) in ways.items():
        tell(f"end to end: the fastest pace that {name} keeps")
        most = statistics.median(_most_kept(lab, receiver, feeder) for _ in range(1 if quick else PACE_REPEATS))
        results.append(_sum_up(name, feeder, streams[name], most))
    found = {result.receiver: result for result in results}
    base = found[_BASE]
    best = max(
        (one for one in results if one.receiver.startswith("fanout")),
        key=lambda one: one.rate.median,
    )
    goals = [_goal(best, base, ">= 8"), _goal(best, found[_BUFFERED], "")]
    rows = [
        [
            *(one.receiver, one.feeder, f"{one.rate.median:,.0f}", f"{one.rate.median / base.rate.median:.2f}"),
            f"{one.rate.least / base.rate.median:.2f} to {one.rate.most / base.rate.median:.2f}",
            *(f"{one.kept:.1%}", f"{one.cpu.median:,.0f}", f"{one.most:,.0f}"),
        ]
        for one in results
    ]
    columns = [
        *("receiver", "fed by", "messages/s", "ratio", "least to most", "kept", "CPU each, ns"),
        f"fastest pace kept to {_KEPT:.0%}",
    ]
    data = [{**one._asdict(), "rate": one.rate._asdict(), "cpu": one.cpu._asdict()} for one in results]
    return BenchPart(goals, [Table(f"End to end into Python code, one receiver, {SIZE} B", columns, rows)], data)


class _Result(NamedTuple):
    receiver: str
    feeder: str
    rate: Spread
    """Messages a second when sent more than it can take."""
    cpu: Spread
    kept: float
    most: float
    """Messages a second of the fastest pace that it keeps."""


def _sum_up(name: str, feeder: str, streams: list[StreamResult], most: float) -> _Result:
    return _Result(
        name,
        feeder,
        Spread.of([one.kept / one.wall * 1e9 for one in streams]),
        Spread.of([one.cpu / one.kept for one in streams]),
        sum(one.kept for one in streams) / sum(one.sent for one in streams),
        most,
    )


def _goal(ours: _Result, other: _Result, goal: str) -> Row:
    ratio = ours.rate.median / other.rate.median
    what, against = f"end to end into Python code: {ours.receiver}", f"{other.receiver}: {si(other.rate.median)}/s"
    return Row(what, f"{si(ours.rate.median)}/s", against, ratio, goal)


def full_speed(sender: starting.RunningContender) -> tuple[int, int]:
    """Send for a second; return how many messages were sent, and in how many nanoseconds."""
    sent = wall = 0
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
        wall += sender.burst(_BURST)["wall"]
        sent += _BURST
    return sent, wall


def _most_kept(lab: Lab, receiver: str, feeder: str) -> float:
    """Search for the fastest pace that the receiver keeps, by halves of a logarithmic scale."""
    low, high, best = float(_SLOWEST), float(_FASTEST), 0.0
    for _ in range(_STEPS):
        rate = round((low * high) ** 0.5)
        for _ in range(_CHANCES):
            one = stream(lab, receiver, feeder, functools.partial(_paced, rate))
            if kept := one.kept >= one.sent * _KEPT:
                break
        reached = one.sent / one.sending * 1e9
        if kept:
            best = max(best, reached)
        # Where the feeder is the slower of the two, a faster pace shows nothing.
        if kept and reached > 0.95 * rate:
            low = rate
        else:
            high = rate
    return best


def _paced(rate: int, sender: starting.RunningContender) -> tuple[int, int]:
    count = round(rate * _PACED_SECONDS)
    return count, sender.pace(count, rate)


def stream(
    lab: Lab, name: str, feeder: str, feed: Callable[[starting.RunningContender], tuple[int, int]], size: int = SIZE
) -> StreamResult:
    """Feed one receiver, and return what its Python code got."""
    command = [*lab.in_pod(0), *python("receivers", name, str(PORT))]
    end = [*lab.in_sender, *python("contenders.worker", "loop", "0", str(PORT), lab.address(0))]
    with (
        Helper(command, core=receiving_core()) as receiver,
        Helper(end, core=sending_core()) as ending,
        starting.started(feeder, lab, 1, size) as sender,
    ):
        sender.burst(1)  # warm, and what starts the receiver's clock
        sent, sending = feed(sender)
        for _ in range(2000):
            ending.ask("burst 1")
            try:
                result = receiver.read(0.005)
            except TimeoutError:
                continue
            return StreamResult(sent + 1, sending, result["count"], result["wall"], result["cpu"])
    raise TimeoutError(f"{name} did not end")
