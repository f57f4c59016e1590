"""What all tests share: no thread left behind, pods that are real sockets, and loud skips.

Tests that need what a machine may lack (`containers`, `nameserver`, `tools`) are skipped there, and the reasons are
printed at the end; FANOUT_REQUIRE=containers,nameserver,tools turns them into failures.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from fanout.model import Endpoint
from tests.serving import Ask, ask_async, ask_sync
from tests.shells import Shell, send_async, send_sync

_not_tested: dict[str, None] = {}


def unavailable(needed: str, reason: str) -> NoReturn:
    """Skip the test, which needs `containers`, `nameserver` or `tools`; fail where FANOUT_REQUIRE names that."""
    if needed in os.environ.get("FANOUT_REQUIRE", "").split(","):
        pytest.fail(f"{needed} required, and {reason}", pytrace=False)
    _not_tested[f"{needed}: {reason}"] = None
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not tested, and why."""
    if _not_tested:
        terminalreporter.section("not tested on this machine", yellow=True)
        for reason in _not_tested:
            terminalreporter.line(reason)


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """A refresher that was stopped ends within the lifetime of its question."""
    yield
    deadline = time.monotonic() + 6
    while left := [thread.name for thread in threading.enumerate() if thread.name.startswith("fanout-")]:
        assert time.monotonic() < deadline, f"threads left behind: {left}"
        time.sleep(0.01)


class Pod:
    """A plain socket that stands where a pod's receiver would."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((host, port))
        self.socket.settimeout(3)
        self.endpoint = Endpoint(*self.socket.getsockname()[:2])

    def receive(self) -> bytes:
        return self.socket.recv(65_535)

    def waiting(self) -> list[bytes]:
        """Everything that has arrived by now."""
        payloads = []
        self.socket.setblocking(False)
        try:
            while True:
                payloads.append(self.socket.recv(65_535))
        except BlockingIOError:
            return payloads
        finally:
            self.socket.settimeout(3)


@pytest.fixture
def pods() -> Iterator[Callable[..., list[Pod]]]:
    """Make so many pods on one free port of 127.0.0.11, 127.0.0.12, ..., or on the addresses given."""
    with ExitStack() as stack:

        def make(count: int = 2, *, hosts: list[str] | None = None) -> list[Pod]:
            hosts = hosts or [f"127.0.0.{11 + number}" for number in range(count)]
            made = [Pod(hosts[0], 0)]
            stack.callback(made[0].socket.close)
            for host in hosts[1:]:
                made.append(Pod(host, made[0].endpoint.port))
                stack.callback(made[-1].socket.close)
            return made

        yield make


@pytest.fixture(params=[send_sync, send_async], ids=["Sender", "AsyncSender"])
def send(request: pytest.FixtureRequest) -> Shell:
    shell: Shell = request.param
    return shell


@pytest.fixture
def closed_port() -> int:
    """A UDP port of loopback on which nothing listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def literals(pods: list[Pod]) -> str:
    """Return the pods as a literal list."""
    return ",".join(str(pod.endpoint) for pod in pods)


class Turns:
    """Counts the turns that an event loop gives to others while something runs."""

    def __init__(self) -> None:
        self.count = 0

    async def _run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)

    async def __aenter__(self) -> Turns:
        self._task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        self.count = 0
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._task.cancel()


@pytest.fixture(params=[ask_sync, ask_async], ids=["Sender", "AsyncSender"])
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_text(os.urandom(32).hex())
    return str(path)
