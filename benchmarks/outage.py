"""The time of one `send` to 50 endpoints, with the nameserver alive and dead."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from benchmarks.rows import Row
from fanout.discovery.dns import DnsResolver
from fanout.model import Service
from fanout.sender.sync import Sender

PODS = 50
SECONDS = 10.0
PERIOD = 0.002


def measure() -> list[Row]:
    """Alternate between alive and dead, so that the machine's noise meets both; compare the p99s."""
    command = [sys.executable, "-m", "benchmarks.nameserver", str(PODS)]
    nameserver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert nameserver.stdout is not None
    try:
        where = nameserver.stdout.readline().strip()
        service = Service("headless-udp.local.svc.cluster.local.", 9)
        alive: list[float] = []
        dead: list[float] = []
        with Sender(service, resolver=DnsResolver(service, nameserver=where, allow_loopback=True)) as sender:
            sender.resolve()
            for _ in range(2):
                alive += _times(sender, SECONDS / 2)
                nameserver.send_signal(signal.SIGSTOP)
                failures = sender.stats.resolver_failures
                while sender.stats.resolver_failures == failures:
                    time.sleep(0.05)
                dead += _times(sender, SECONDS / 2)
                nameserver.send_signal(signal.SIGCONT)
                while sender.send(b"x").stale:
                    time.sleep(0.05)
    finally:
        nameserver.kill()
        nameserver.wait()
        nameserver.stdout.close()
    p99_alive, p99_dead = _p99(alive), _p99(dead)
    return [
        Row(f"p99 of send to {PODS} endpoints, nameserver dead", f"{p99_dead * 1e6:.0f} µs",
            f"alive: {p99_alive * 1e6:.0f} µs", p99_dead / p99_alive, "< 2")
    ]  # fmt: skip


def _times(sender: Sender, seconds: float) -> list[float]:
    times = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        sender.send(b"x" * 200)
        times.append(time.perf_counter() - started)
        time.sleep(PERIOD)
    return times


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]
