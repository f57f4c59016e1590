"""How soon the LAN knows of a pod that joins or leaves, and what a flood of searches does to `fanout relay ssdp`."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.changing_nameserver import NAME
from benchmarks.dlna import MIB, OURS, PLAYER, make_file, media_server, started, wait_for
from benchmarks.lab import SENDER, Lab
from benchmarks.rows import BenchPart, Row
from benchmarks.sending import Tell
from benchmarks.talk import Helper, python

ALIVE, BYEBYE = "ssdp:alive", "ssdp:byebye"
GROUP = "239.255.255.250"
DNS_TTL = 1
RATE = 10_000
_ATTACKER = "10.77.255.3"
_SOON = 2
"""Seconds beyond its TTL in which a change of the Service is known on the LAN."""
_FOUND = 2
"""Seconds in which a client has its answer after a flood."""
_GROWTH = 16
"""MiB that a flood may cost."""


class Flood(NamedTuple):
    """Searches whose sources are forged."""

    name: str
    to: str
    source: str
    """A network."""


class FloodResult(NamedTuple):
    """What a flood did."""

    flood: str
    rate: float
    """Searches a second."""
    grown: int
    """Bytes of memory."""
    found: int
    """Nanoseconds until a client had its answer afterwards."""


FLOODS = (
    Flood("from outside, by unicast", SENDER, "8.0.0.0/8"),
    Flood("from the LAN, by multicast", GROUP, "10.77.128.0/17"),
    Flood("of one client", SENDER, "10.77.254.1/32"),
)


def measure(lab: Lab, tell: Tell, *, quick: bool = False) -> BenchPart:
    """Change the Service, then flood the relay."""
    lab.grow(2)
    repeats, count = (1, 200) if quick else (5, 5 * RATE)
    # The laboratory's /run is in memory, and gone with it.
    with tempfile.TemporaryDirectory(dir="/run") as folder, contextlib.ExitStack() as stack:
        make_file(Path(folder), MIB)
        stack.enter_context(media_server(lab, Path(folder)))
        names = stack.enter_context(Helper([*lab.in_sender, *python("changing_nameserver", str(DNS_TTL))]))
        listener, attacker = (
            stack.enter_context(Helper([*lab.add(name, address), *python("contenders.searcher", address)]))
            for name, address in (("player", PLAYER), ("attacker", _ATTACKER))
        )
        names.ask(f"pods {lab.address(0)} {lab.address(1)}")
        relay, log, udn = stack.enter_context(_relay(lab, Path(folder), names.answer))
        listener.ask(f"hear {ALIVE} {udn}")
        changes: dict[str, list[int]] = {BYEBYE: [], ALIVE: []}
        for repeat in range(repeats):
            tell(f"ssdp: a pod leaves and joins, {repeat + 1} of {repeats}")
            # The other pod has no media server.
            for nts, pods in ((BYEBYE, [lab.address(1)]), (ALIVE, lab.addresses(2))):
                changed = names.ask(f"pods {' '.join(pods)}")
                changes[nts].append(listener.ask(f"hear {nts} {udn}") - changed)
        runs = []
        for flood in FLOODS:
            tell(f"ssdp: a flood {flood.name}")
            attacker.ask(f"flood {flood.to} {count // 10} {RATE} {flood.source}")  # what is made once is made now
            listener.ask(f"find {SENDER} {udn}")
            before = _resident(relay.pid)
            took = attacker.ask(f"flood {flood.to} {count} {RATE} {flood.source}")
            found = listener.ask(f"find {SENDER} {udn}")
            runs.append(FloodResult(flood.name, count / took * 1e9, max(0, _resident(relay.pid) - before), found))
        relay.send_signal(signal.SIGTERM)
        relay.wait(60)
        _check(log, len(FLOODS) * count)
    return BenchPart(_rows(changes, runs), [], {"changes": changes, "floods": [run._asdict() for run in runs]})


@contextlib.contextmanager
def _relay(lab: Lab, folder: Path, nameserver: str) -> Iterator[tuple[subprocess.Popen[bytes], Path, str]]:
    """Start the relay as users do; yield it, its log, and the device that it has found."""
    log = folder / "relay.log"
    service = ("-s", NAME, "--nameserver", nameserver, "--interface", "eth0")
    rest = ("--admin-port", "0", "--log-format", "json")
    with started([*lab.in_sender, sys.executable, "-m", "fanout", "relay", "ssdp", *service, *rest], log) as relay:
        wait_for(relay, log, lambda text: '"device_announced"' in text and text.endswith("\n"))
        yield relay, log, next(each["udn"] for each in _events(log) if each["event"] == "device_announced")


def _check(log: Path, count: int) -> None:
    """Raise where the floods have not come."""
    stopped = _events(log)[-1]
    came = stopped["searches"] + stopped["dropped"].get("kernel_buffer", 0)
    if came < count:
        raise AssertionError(f"{came:,} of {count:,} searches have come: {stopped}")


def _events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def _resident(pid: int) -> int:
    """Return how many bytes of memory a process has now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


def _rows(changes: dict[str, list[int]], runs: list[FloodResult]) -> list[Row]:
    promised = DNS_TTL + _SOON
    rows = [
        Row(
            f"a pod {what}, DNS TTL {DNS_TTL} s: known on the LAN after, at most",
            f"{max(changes[nts]) / 1e9:.2f} s",
            f"{promised} s",
            max(changes[nts]) / 1e9 / promised,
            "<= 1",
        )
        for nts, what in ((BYEBYE, "leaves"), (ALIVE, "joins"))
    ]
    grown, found = max(run.grown for run in runs), max(run.found for run in runs)
    flood = f"{min(run.rate for run in runs):,.0f} searches/s"
    return [
        *rows,
        Row(f"memory of {OURS}, {flood}: more by, at most", f"{grown / MIB:.1f} MiB", f"{_GROWTH} MiB",
            grown / MIB / _GROWTH, "< 1"),
        Row(f"{OURS}, {flood}: found again after, at most", f"{found / 1e9:.2f} s", f"{_FOUND} s",
            found / 1e9 / _FOUND, "<= 1"),
    ]  # fmt: skip
