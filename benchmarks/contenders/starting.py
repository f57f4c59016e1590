"""Each contender by the name that people read, and how it is started."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from benchmarks.contenders import gstreamer
from benchmarks.lab import GROUP, PORT, Lab
from benchmarks.talk import Helper, compiled, python, sending_core

LOOP = "sendto loop, Python"
LOOP_C = "sendto loop, C"
MANY_C = "sendmmsg, C"
CONNECTED = "connected sockets, Python"
MULTICAST = "native multicast, C"
GSTREAMER = "GStreamer multiudpsink"
SINGLE = "fanout, one at a time"
SINGLE_LOOP = "fanout by its loop"
SINGLE_MANY = "fanout by sendmmsg"
LIST = "fanout send_many, list"
GENERATOR = "fanout send_many, generator"
ASYNC = "fanout AsyncSender, 64 tasks"
NUMBERED = "fanout send_many, numbered"
SEALED = "fanout send_many, sealed"
CONFIRMED = "fanout, confirmed"
ROUND_TRIP = "round trip to all, bare sockets"
WITHOUT_GRO = "fanout send_many, receivers without GRO"

_WORKERS = {
    LOOP: "loop",
    CONNECTED: "connected",
    SINGLE: "single",
    SINGLE_LOOP: "single-loop",
    SINGLE_MANY: "single-sendmmsg",
    LIST: "list",
    GENERATOR: "generator",
    ASYNC: "async",
    WITHOUT_GRO: "list",
    NUMBERED: "numbered",
    SEALED: "sealed",
    CONFIRMED: "confirmed",
    ROUND_TRIP: "round-trip",
}
_IN_C = {LOOP_C: "sendto", MANY_C: "sendmmsg", MULTICAST: "sendto"}
ALL = (LOOP, LOOP_C, MANY_C, CONNECTED, MULTICAST, GSTREAMER, SINGLE, ASYNC, GENERATOR, LIST, WITHOUT_GRO)


class RunningContender(NamedTuple):
    """A contender that runs."""

    burst: Callable[[int], dict[str, int]]
    """Sends N messages and returns the times."""
    each: Callable[[int], list[int]]
    """Sends N messages and returns the time of each."""
    pace: Callable[[int, int], int]
    """Sends N messages at a rate (messages a second); returns how long it took, in nanoseconds."""
    extra: int = 0
    """Messages that a burst sends beside those that are timed."""


def missing(lab: Lab) -> dict[str, str]:
    """Return the contenders that cannot take part here, and why."""
    reasons = {GSTREAMER: gstreamer.why_no_gstreamer()}
    if lab.loopback:
        reasons[MULTICAST] = "the loopback interface is not a bridge"
    return {name: reason for name, reason in reasons.items() if reason}


@contextlib.contextmanager
def started(name: str, lab: Lab, pods: int, size: int) -> Iterator[RunningContender]:
    """Start a contender at the sender; end it."""
    addresses = [GROUP] if name == MULTICAST else lab.addresses(pods)
    core = sending_core()
    if name == GSTREAMER:
        prefix = [*lab.in_sender, *(["taskset", "--cpu-list", str(core)] if core is not None else [])]
        yield RunningContender(
            lambda count: gstreamer.burst(prefix, size, addresses, count),
            lambda count: [],
            lambda count, rate: 0,
            extra=2 * gstreamer.STARTUP_MESSAGES,
        )
        return
    command = [compiled("sender"), _IN_C[name]] if name in _IN_C else python("contenders.worker", _WORKERS[name])
    with Helper([*lab.in_sender, *command, str(size), str(PORT), *addresses], core=core) as helper:
        yield RunningContender(
            lambda count: dict(helper.ask(f"burst {count}")),
            lambda count: list(helper.ask(f"each {count}")),
            lambda count, rate: int(helper.ask(f"pace {count} {rate}")["wall"]),
        )
