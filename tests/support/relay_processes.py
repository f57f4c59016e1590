"""`fanout relay` as a process beside a test, and what is sent to it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.admin import get
from tests.support.cli import Running
from tests.support.ports import free_port
from tests.support.waiting import until


def name(opened: socket.socket) -> str:
    return f"127.0.0.1:{opened.getsockname()[1]}"


def send(port: int, *payloads: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        for payload in payloads:
            opened.sendto(payload, ("127.0.0.1", port))


def ask(relay: Running | int, path: str) -> tuple[int, str]:
    """Return what a relay's admin port says."""
    admin = f"127.0.0.1:{relay}" if isinstance(relay, int) else relay.events("relay_started")[0]["admin"]
    return get(f"http://{admin}{path}")


@contextmanager
def relaying(folder: Path, *arguments: str, **environment: str) -> Iterator[Running]:
    """Run `fanout relay` with an admin port of its own."""
    defaults = {"FANOUT_ADMIN_HOST": "127.0.0.1", "FANOUT_ADMIN_PORT": str(free_port())}
    relay = Running(("relay", *arguments), folder, defaults | environment)
    try:
        relay.wait_until(lambda: "relay_started" in relay.out)
        yield relay
    finally:
        relay.process.kill()
        relay.process.wait()


def ready(relay: Running) -> Running:
    relay.wait_until(lambda: ask(relay, "/readyz") == (200, "ok\n"))
    return relay


def pause(relay: Running) -> None:
    """Stop all its threads."""
    threads = Path(f"/proc/{relay.process.pid}/task")
    relay.process.send_signal(signal.SIGSTOP)
    until(lambda: all("\nState:\tT" in (thread / "status").read_text() for thread in threads.iterdir()), "it stops")


def resume(relay: Running) -> None:
    relay.process.send_signal(signal.SIGCONT)
