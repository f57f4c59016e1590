"""How much of 20,000 datagrams a second the receiver app keeps, and a stock asyncio protocol beside it.

And how exactly a receiver counts what it loses of merged runs.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fanout
from benchmarks.rows import Row

RATE = 20_000
SECONDS = 10
SIZE = 200
BURST = 500
RUNS, SEGMENTS = 3000, 64
_UDP_SEGMENT = 103  # include/uapi/linux/udp.h
_APP = [sys.executable, "-m", "fanout", "receive", "--host", "127.0.0.1", "--port", "0", "--admin-port", "0",
        "--drain", "1"]  # fmt: skip
_STOCK = [sys.executable, "-m", "benchmarks.stock_receiver"]


def measure() -> list[Row]:
    """Send the same stream to each, one after the other: evenly paced, and in bursts at the same mean rate."""
    total = RATE * SECONDS
    rows = []
    for how, send in (("evenly paced", _send_evenly), (f"in bursts of {BURST}", _send_in_bursts)):
        app, stock = _kept_by_app(send), _kept_by_stock(send)
        what = f"receiver app, {RATE}/s for {SECONDS} s {how}, logging on: kept"
        against = f"stock asyncio protocol: {stock} ({stock / total:.1%})"
        rows.append(Row(what, f"{app} of {total}", against, app / total, "= 1"))
    for workers in (1, 2):
        counted, sent = asyncio.run(_counted_by_who_cannot_follow(workers)), RUNS * SEGMENTS
        what = f"handed over or counted as lost, of merged runs to a receiver that cannot follow, {workers} worker(s)"
        rows.append(Row(what, f"{counted:,}", f"sent: {sent:,}", counted / sent, ">= 0.97"))
    return rows


async def _counted_by_who_cannot_follow(workers: int) -> int:
    """Send it runs while it has 50 batches a second; what the kernel drops merged counts as one."""
    async with fanout.AsyncReceiver(0, host="127.0.0.1", capacity=1000, workers=workers) as receiver:

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.connect(receiver.address)
                segments = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", SIZE))]
                for _ in range(RUNS):
                    sender.sendmsg([bytes(SIZE * SEGMENTS)], segments)
                    time.sleep(0.0002)

        async def consume() -> int:
            handed_over = 0
            async for batch in receiver.batches():
                handed_over += len(batch)
                await asyncio.sleep(0.02)
            return handed_over

        consuming = asyncio.create_task(consume())
        await asyncio.to_thread(send)
        receiver.stop()
        return await consuming + receiver.stats.kernel_drops


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
