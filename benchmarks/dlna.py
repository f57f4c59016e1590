"""A large file of a media server in a pod: through `fanout relay ssdp`, beside the same from the pod directly."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.lab import SENDER, Lab
from benchmarks.rows import BenchPart, Row, Spread, Table
from benchmarks.sending import Tell
from benchmarks.talk import Helper, cpu_time, python

OURS, DIRECT = "fanout relay ssdp", "the pod directly"
GIB, MIB = 1 << 30, 1 << 20
REPEATS = 9
PLAYER = "10.77.255.2"
_PORT = 8200
_FAST = ">= 0.5"
_MEMORY = 100
_CONF = """
port={port}
network_interface=eth0
media_dir={folder}/media
db_dir={folder}
log_dir={folder}
inotify=no
"""


class PlayResult(NamedTuple):
    """The file, once."""

    wall: int
    """Nanoseconds from before the connection to the last byte."""
    player: int
    """Nanoseconds of CPU of who fetched it, and"""
    relay: int
    """of the relay."""


Runs = dict[str, list[PlayResult]]


def why_not(lab: Lab) -> str | None:
    """Return in one line why it cannot be measured here; None where it can."""
    if lab.loopback:
        return "it needs hosts on a network, and so namespaces"
    if shutil.which("minidlnad") is None:
        return "the media server minidlnad is missing (Debian, Ubuntu: apt install minidlna)"
    lacking = [name for name in ("aiohttp", "defusedxml") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(lacking)}: missing (pip install {' '.join(lacking)})" if lacking else None


def measure(lab: Lab, tell: Tell, *, quick: bool = False) -> BenchPart:
    """Fetch one file in turn through the relay and from the pod."""
    lab.grow(1)
    size = GIB // 32 if quick else GIB
    # The laboratory's /run is in memory, and gone with it.
    with tempfile.TemporaryDirectory(dir="/run") as folder, contextlib.ExitStack() as stack:
        tell(f"dlna: a file of {size / GIB:g} GiB")
        make_file(Path(folder), size)
        server = stack.enter_context(media_server(lab, Path(folder)))
        relay, place = stack.enter_context(_relay(lab, Path(folder)))
        player = stack.enter_context(Helper([*lab.add("player", PLAYER), *python("contenders.player")]))
        urls = {DIRECT: _find(player, lab.address(0), _PORT), OURS: _find(player, *place)}
        sums = {name: player.ask(f"sum {url}") for name, url in urls.items()}
        if len(set(sums.values())) != 1:
            raise AssertionError(f"what came through the relay is something else: {sums}")
        runs: Runs = defaultdict(list)
        repeats = 3 if quick else REPEATS
        for repeat in range(repeats):
            tell(f"dlna: {repeat + 1} of {repeats}")
            for name in list(urls)[:: (-1) ** repeat]:
                runs[name].append(_run(player, relay, urls[name], size))
        peak = _peak(relay.pid)
        if server.poll() is not None or relay.poll() is not None:
            raise ChildProcessError("the media server or the relay has ended")
    return BenchPart(
        _rows(runs, size, peak),
        [_table(runs, size)],
        {"size": size, "peak": peak, "runs": {name: [run._asdict() for run in each] for name, each in runs.items()}},
    )


def _run(player: Helper, relay: subprocess.Popen[bytes], url: str, size: int) -> PlayResult:
    cpu = cpu_time(relay.pid)
    got = player.ask(f"get {url}", 120)
    cpu = cpu_time(relay.pid) - cpu
    if got["bytes"] != size:
        raise AssertionError(f"{got['bytes']:,} bytes of {size:,} came from {url}")
    return PlayResult(got["wall"], got["cpu"], cpu)


# What runs.


def make_file(folder: Path, size: int) -> None:
    """Write music: what minidlna takes without looking further than its head."""
    head = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", size - 8, b"WAVEfmt ", 16, 1, 2, 48_000, 192_000, 4, 16, b"data",
                       size - 44)  # fmt: skip
    folder.joinpath("media").mkdir()
    with folder.joinpath("media", "long.wav").open("wb") as music:
        music.write(head)
        for start in range(len(head), size, MIB):
            music.write(os.urandom(min(MIB, size - start)))


@contextlib.contextmanager
def media_server(lab: Lab, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    conf, log = folder / "conf", folder / "minidlna.log"
    conf.write_text(_CONF.format(port=_PORT, folder=folder))
    subprocess.run([*lab.in_pod(0), "ip", "route", "replace", "239.0.0.0/8", "dev", "eth0"], check=True)
    command = [*lab.in_pod(0), "minidlnad", "-S", "-f", str(conf), "-P", str(folder / "pid")]
    with started(command, folder / "server.out") as server:
        wait_for(server, log, lambda text: "Finished parsing playlists" in text)
        yield server


@contextlib.contextmanager
def _relay(lab: Lab, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], tuple[str, int]]]:
    """Start the relay as users do; yield it, and where on it the media server is found."""
    log = folder / "relay.log"
    service = ("-s", f"{lab.address(0)},", "--interface", "eth0", "--admin-port", "0", "--log-format", "json")
    with started([*lab.in_sender, sys.executable, "-m", "fanout", "relay", "ssdp", *service], log) as relay:
        wait_for(relay, log, lambda text: '"device_announced"' in text and text.endswith("\n"))
        events = map(json.loads, log.read_text().splitlines())
        where = urlsplit(next(event["location"] for event in events if event["event"] == "device_announced"))
        if where.hostname != SENDER or where.port is None:
            raise AssertionError(f"the device is announced at {where.geturl()}")
        yield relay, (SENDER, where.port)


@contextlib.contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program in a group of its own; end it with all that it has started."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, process_group=0)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(process: subprocess.Popen[bytes], log: Path, is_ready: Callable[[str], bool]) -> None:
    for _ in range(12_000):
        text = log.read_text() if log.exists() else ""
        if is_ready(text):
            return
        if process.poll() is not None:
            break
        time.sleep(0.01)
    raise TimeoutError(f"{log.name} says: {text[-2000:]}")


def _find(player: Helper, host: str, port: int) -> str:
    (url,) = player.ask(f"find {host} {port}")
    if not str(url).startswith(f"http://{host}:{port}/"):
        raise AssertionError(f"the media server at {host}:{port} leads to {url}")
    return str(url)


def _peak(pid: int) -> int:
    """Return the most bytes of memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


# What it gives.


def _rate(runs: list[PlayResult], size: int) -> Spread:
    return Spread.of([size / run.wall * 1e9 for run in runs])


def _rows(runs: Runs, size: int, peak: int) -> list[Row]:
    ours, direct = (_rate(runs[name], size).median for name in (OURS, DIRECT))
    file = f"{size / GIB:g} GiB of a media server in a pod"
    return [
        Row(f"{file}: through {OURS}", f"{ours / 1e9:.2f} GB/s", f"{DIRECT}: {direct / 1e9:.2f} GB/s", ours / direct,
            _FAST),
        Row(f"memory of {OURS} meanwhile, at most", f"{peak / MIB:.1f} MiB", f"{_MEMORY} MiB", peak / MIB / _MEMORY,
            "< 1"),
    ]  # fmt: skip


def _table(runs: Runs, size: int) -> Table:
    direct = _rate(runs[DIRECT], size).median
    rows = []
    for name in (DIRECT, OURS):
        rate = _rate(runs[name], size)
        cpu = {who: Spread.of([getattr(run, who) / 1e9 * GIB / size for run in runs[name]]).median
               for who in ("relay", "player")}  # fmt: skip
        rows.append([
            name, f"{rate.median / 1e9:.2f}", f"{rate.least / 1e9:.2f} to {rate.most / 1e9:.2f}",
            f"{rate.median / direct:.2f}", f"{cpu['relay']:.2f}" if name == OURS else "", f"{cpu['player']:.2f}",
        ])  # fmt: skip
    columns = ["from", "GB/s", "least to most", "ratio", "CPU of the relay, s/GiB", "of the player"]
    return Table("A large file of a media server", columns, rows)
