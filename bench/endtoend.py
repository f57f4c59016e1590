"""Messages a second from one sender into the Python code of one receiver, each as fast as it goes."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import NamedTuple

import fanout
from bench.contenders import starting
from bench.lab import PORT, Lab
from bench.rows import Part, Row, Spread, Table, si
from bench.sending import Tell
from bench.talk import Helper, python, receiving_core, sending_core

SIZE = 200
REPEATS = 5
_SECONDS = 1.0
_BURST = 10_000
_BASE = "recvfrom loop"
_WAYS = {
    _BASE: ("recvfrom", starting.LOOP),
    "stock asyncio protocol": ("asyncio", starting.LOOP),
    "fanout.Receiver": ("receiver", starting.LIST),
    "fanout.Receiver.batches()": ("batches", starting.LIST),
    "fanout.AsyncReceiver": ("async", starting.LIST),
    "fanout.AsyncReceiver.batches()": ("async-batches", starting.LIST),
}


class _Stream(NamedTuple):
    sent: int
    kept: int
    wall: int
    cpu: int


def measure(lab: Lab, tell: Tell, *, quick: bool = False) -> Part:
    """Feed each receiver in turn."""
    lab.grow(1)
    ways = {
        name: way
        for name, way in _WAYS.items()
        if not name.endswith("batches()") or hasattr(getattr(fanout, name.split(".")[1]), "batches")
    }
    streams: dict[str, list[_Stream]] = defaultdict(list)
    for repeat in range(2 if quick else REPEATS):
        tell(f"end to end: {repeat + 1} of {REPEATS}")
        for name, (receiver, feeder) in ways.items():
            streams[name].append(_stream(lab, receiver, feeder))
    rates = {name: Spread.of([one.kept / one.wall * 1e9 for one in many]) for name, many in streams.items()}
    cpu = {name: Spread.of([one.cpu / one.kept for one in many]) for name, many in streams.items()}
    kept = {name: sum(one.kept for one in many) / sum(one.sent for one in many) for name, many in streams.items()}
    base = rates[_BASE]
    best = max((name for name in ways if name.startswith("fanout")), key=lambda name: rates[name].median)
    rows = [
        [
            *(name, ways[name][1], f"{rates[name].median:,.0f}", f"{rates[name].median / base.median:.2f}"),
            f"{rates[name].least / base.median:.2f} to {rates[name].most / base.median:.2f}",
            *(f"{kept[name]:.1%}", f"{cpu[name].median:,.0f}"),
        ]
        for name in ways
    ]
    columns = ["receiver", "fed by", "messages/s", f"against the {_BASE}", "least to most", "kept", "CPU each, ns"]
    data = [
        {"receiver": name, "feeder": ways[name][1], "rate": rates[name]._asdict(), "cpu": cpu[name]._asdict(),
         "kept": kept[name]}
        for name in ways
    ]  # fmt: skip
    goal = Row(f"end to end into Python code, {SIZE} B: {best}", f"{si(rates[best].median)}/s",
               f"{_BASE}: {si(base.median)}/s", rates[best].median / base.median, ">= 8")  # fmt: skip
    return Part([goal], [Table(f"End to end into Python code, one receiver, {SIZE} B", columns, rows)], data)


def _stream(lab: Lab, name: str, feeder: str) -> _Stream:
    command = [*lab.in_pod(0), *python("receivers", name, str(PORT))]
    end = [*lab.in_sender, *python("contenders.worker", "loop", "0", str(PORT), lab.address(0))]
    with (
        Helper(command, core=receiving_core()) as receiver,
        Helper(end, core=sending_core()) as ending,
        starting.started(feeder, lab, 1, SIZE) as sender,
    ):
        sent = 0
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            sender.burst(_BURST)
            sent += _BURST
        for _ in range(2000):
            ending.ask("burst 1")
            try:
                result = receiver.read(0.005)
            except TimeoutError:
                continue
            return _Stream(sent, result["count"], result["wall"], result["cpu"])
    raise TimeoutError(f"{name} did not end")
