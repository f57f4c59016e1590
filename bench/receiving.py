"""How much of 20,000 datagrams a second the receiver app keeps, and a stock asyncio protocol beside it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.rows import Row

RATE = 20_000
SECONDS = 10
SIZE = 200
BURST = 500
_APP = [sys.executable, "-m", "fanout", "receive", "--host", "127.0.0.1", "--port", "0", "--admin-port", "0",
        "--drain", "1"]  # fmt: skip
_STOCK = [sys.executable, "-m", "bench.stock_receiver"]


def measure() -> list[Row]:
    """Send the same stream to each, one after the other: evenly paced, and in bursts at the same mean rate."""
    total = RATE * SECONDS
    rows = []
    for how, send in (("evenly paced", _send_evenly), (f"in bursts of {BURST}", _send_in_bursts)):
        app, stock = _kept_by_app(send), _kept_by_stock(send)
        what = f"receiver app, {RATE}/s for {SECONDS} s {how}, logging on: kept"
        against = f"stock asyncio protocol: {stock} ({stock / total:.1%})"
        rows.append(Row(what, f"{app} of {total}", against, app / total, "= 1"))
    return rows


def _kept_by_app(send: Callable[[str], None]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as out:
            receiver = subprocess.Popen(_APP, stdout=out)
        try:
            while b"receiver_started" not in (text := log.read_bytes()) or not text.endswith(b"\n"):
                time.sleep(0.01)
            send(json.loads(text.splitlines()[-1])["address"])
            receiver.terminate()
            receiver.wait(10)
        finally:
            receiver.kill()
            receiver.wait()
        return int(json.loads(log.read_bytes().splitlines()[-1])["datagrams"])


def _kept_by_stock(send: Callable[[str], None]) -> int:
    with tempfile.TemporaryFile() as out:
        receiver = subprocess.Popen(_STOCK, stdout=out, stderr=subprocess.PIPE, text=True)
        assert receiver.stderr is not None
        try:
            send(receiver.stderr.readline().strip())
            time.sleep(1)
            receiver.terminate()
            return int(receiver.stderr.read())
        finally:
            receiver.kill()
            receiver.wait()
            receiver.stderr.close()


def _send_evenly(endpoint: str) -> None:
    command = [sys.executable, "-m", "fanout", "send", "-q", "-s", endpoint, "-m", "x" * SIZE]
    subprocess.run([*command, "--rate", str(RATE), "--count", str(RATE * SECONDS)], check=True)


def _send_in_bursts(endpoint: str) -> None:
    host, _, port = endpoint.rpartition(":")
    payload = b"x" * SIZE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        due = time.monotonic()
        for _ in range(RATE * SECONDS // BURST):
            time.sleep(max(0.0, due - time.monotonic()))
            due += BURST / RATE
            for _ in range(BURST):
                sender.sendto(payload, (host, int(port)))
