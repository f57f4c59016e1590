"""Resident memory of a sender with many endpoints, and of a receiver as messages go by."""

from __future__ import annotations

import socket
import time

from benchmarks.contenders import starting
from benchmarks.lab import PORT, Lab
from benchmarks.rows import BenchPart, Row
from benchmarks.sending import Tell
from benchmarks.talk import Helper, python, receiving_core

ENDPOINTS = 4_000
MARKS = (1_000_000, 10_000_000)
_LIMIT = 60.0
_SIZE = 200
_BURST = 20_000
_DEADLINE = 240.0


def measure(lab: Lab, tell: Tell, *, quick: bool = False) -> BenchPart:
    """Measure both; the sender's endpoints are addresses of the loopback interface."""
    lab.grow(1)
    tell(f"memory: a sender with {ENDPOINTS:,} endpoints")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("0.0.0.0", PORT))
        with Helper(python("footprint", "sender", str(ENDPOINTS))) as process:
            sender = process.answer
    if sender["endpoints"] != ENDPOINTS:
        raise AssertionError(f"the sender knew {sender['endpoints']} endpoints")
    marks = tuple(mark // 10 for mark in MARKS) if quick else MARKS
    tell(f"memory: a receiver after {marks[0]:,} and {marks[1]:,} messages")
    receiver = _receiver(lab, marks)
    first, second = (value / 1024 for value in receiver["resident"])
    mib = sender["after"] / 1024
    goals = [
        Row(f"memory of a sender with {ENDPOINTS:,} endpoints", f"{mib:.1f} MiB", f"{_LIMIT:.0f} MiB", mib / _LIMIT,
            "< 1"),
        Row(f"memory of a receiver after {marks[1]:,} messages", f"{second:.1f} MiB",
            f"after {marks[0]:,}: {first:.1f} MiB", second / first, "<= 1.02"),
    ]  # fmt: skip
    return BenchPart(goals, [], {"sender_kib": sender, "receiver_kib": receiver})


def _receiver(lab: Lab, marks: tuple[int, ...]) -> dict[str, list[int]]:
    command = [*lab.in_pod(0), *python("footprint", "receiver", *map(str, marks))]
    with (
        Helper(command, core=receiving_core()) as receiver,
        starting.started(starting.LIST, lab, 1, _SIZE) as sender,
    ):
        until = time.monotonic() + _DEADLINE
        while time.monotonic() < until:
            sender.burst(_BURST)
            try:
                return dict(receiver.read(0))
            except TimeoutError:
                continue
    raise TimeoutError(f"the receiver did not get {marks[-1]:,} messages within {_DEADLINE} s")
