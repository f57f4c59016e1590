"""How much of 20,000 datagrams a second the receiver app keeps, and a stock asyncio protocol beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.rows import Row

RATE = 20_000
SECONDS = 10
SIZE = 200
_APP = [sys.executable, "-m", "fanout", "receive", "--host", "127.0.0.1", "--port", "0", "--admin-port", "0",
        "--drain", "1"]  # fmt: skip
_STOCK = [sys.executable, "-m", "bench.stock_receiver"]


def measure() -> list[Row]:
    """Send the same paced stream to each, one after the other."""
    total = RATE * SECONDS
    app, stock = _kept_by_app(), _kept_by_stock()
    return [
        Row(f"receiver app, {RATE}/s for {SECONDS} s, logging on: kept", f"{app} of {total}",
            f"stock asyncio protocol: {stock} of {total}", app / total, "= 1")
    ]  # fmt: skip


def _kept_by_app() -> int:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as out:
            receiver = subprocess.Popen(_APP, stdout=out)
        try:
            while b"receiver_started" not in (text := log.read_bytes()) or not text.endswith(b"\n"):
                time.sleep(0.01)
            _send(json.loads(text.splitlines()[-1])["address"])
            receiver.terminate()
            receiver.wait(10)
        finally:
            receiver.kill()
            receiver.wait()
        return int(json.loads(log.read_bytes().splitlines()[-1])["datagrams"])


def _kept_by_stock() -> int:
    with tempfile.TemporaryFile() as out:
        receiver = subprocess.Popen(_STOCK, stdout=out, stderr=subprocess.PIPE, text=True)
        assert receiver.stderr is not None
        try:
            _send(receiver.stderr.readline().strip())
            time.sleep(1)
            receiver.terminate()
            return int(receiver.stderr.read())
        finally:
            receiver.kill()
            receiver.wait()
            receiver.stderr.close()


def _send(endpoint: str) -> None:
    command = [sys.executable, "-m", "fanout", "send", "-q", "-s", endpoint, "-m", "x" * SIZE]
    subprocess.run([*command, "--rate", str(RATE), "--count", str(RATE * SECONDS)], check=True)
