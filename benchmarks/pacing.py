"""How exact `fanout send --rate` is, by when datagrams arrive; and what the receiver app keeps of a fast stream."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.lab import PORT, Lab
from benchmarks.rows import BenchPart, Row, Table
from benchmarks.sending import Tell
from benchmarks.talk import Counter, receiving_core, sending_core

RATES = (10, 1_000, 20_000, 100_000, 500_000)
SECONDS = 10
SIZE = 200
APP_RATE = 100_000
_FANOUT = [sys.executable, "-m", "fanout"]


def measure(lab: Lab, tell: Tell, *, quick: bool = False) -> BenchPart:
    """Send at each rate to a receiver that counts."""
    lab.grow(1)
    seconds = 1 if quick else SECONDS
    rows, data, worst = [], [], (0.0, 0)
    for rate in RATES:
        tell(f"pacing: {rate:,}/s for {seconds} s")
        with Counter(lab, 1) as counter:
            _send(lab, rate, rate * seconds)
            (pod,) = counter.read_pods(rate * seconds)
        # The first datagram starts the time, so it is not one of those that came in it.
        measured = (pod["datagrams"] - 1) / (pod["last"] - pod["first"]) * 1e9
        worst = max(worst, (abs(measured / rate - 1), rate))
        lost = rate * seconds - pod["datagrams"]
        rows.append([f"{rate:,}/s", f"{measured:,.1f}/s", f"{measured / rate:.4f}", str(lost)])
        data.append({"asked": rate, "measured": measured, "seconds": seconds, "lost": lost})
    goal = Row(f"pacing, 10/s to {RATES[-1]:,}/s over {seconds} s: most off", f"{worst[0]:.2%}",
               f"asked: {worst[1]:,}/s", 1 + worst[0], "<= 1.01")  # fmt: skip
    return BenchPart([goal], [Table(f"Pacing, {SIZE} B", ["asked", "measured", "ratio", "lost"], rows)], data)


def measure_app(lab: Lab, tell: Tell, *, quick: bool = False) -> BenchPart:
    """Send a paced stream to `fanout receive`, whose log is limited to 200 lines a second, the default."""
    lab.grow(1)
    seconds = 2 if quick else SECONDS
    total = APP_RATE * seconds
    tell(f"receiver app: {APP_RATE:,}/s for {seconds} s")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        pinned = [] if receiving_core() is None else ["taskset", "--cpu-list", str(receiving_core())]
        command = [*pinned, *lab.in_pod(0), *_FANOUT, "receive", "--port", str(PORT), "--admin-port", "0"]
        with log.open("wb") as out:
            receiver = subprocess.Popen([*command, "--drain", "1"], stdout=out)
        try:
            _wait_for(log, b"receiver_started")
            elapsed = _send(lab, APP_RATE, total)
            receiver.terminate()
            receiver.wait(15)
        finally:
            receiver.kill()
            receiver.wait()
        lines = log.read_bytes().splitlines()
    last = json.loads(lines[-1])
    kept = int(last["datagrams"])
    goal = Row(
        f"receiver app, {APP_RATE:,}/s for {seconds} s, {SIZE} B, logs limited: lost",
        f"{total - kept:,}",
        f"sent: {total:,} in {elapsed:.2f} s",
        kept / total,
        "= 1",
    )
    return BenchPart([goal], [], {"sent": total, "kept": kept, "seconds": elapsed, "lines": len(lines), "last": last})


def _send(lab: Lab, rate: int, count: int) -> float:
    pinned = [] if sending_core() is None else ["taskset", "--cpu-list", str(sending_core())]
    command = [*pinned, *lab.in_sender, *_FANOUT, "send", "-o", "json", "-s", f"{lab.address(0)}:{PORT},"]
    message = ["-m", "x" * SIZE, "--rate", str(rate), "--count", str(count)]
    done = subprocess.run([*command, *message], stdout=subprocess.PIPE, check=True, timeout=count / rate * 4 + 30)
    return float(json.loads(done.stdout)["elapsed"])


def _wait_for(log: Path, event: bytes) -> None:
    for _ in range(1000):
        if event in (text := log.read_bytes()) and text.endswith(b"\n"):
            return
        time.sleep(0.01)
    raise TimeoutError(f"no {event.decode()} in the log: {log.read_text()}")
