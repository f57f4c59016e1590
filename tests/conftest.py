"""What all tests share: no thread left behind, pods that are real sockets, loud skips, and turns.

Tests that need what a machine may lack (`containers`, `nameserver`, `tools`) are skipped there, and the reasons are
printed at the end; FANOUT_REQUIRE=containers,nameserver,tools turns them into failures.

`make test` runs two tests at a time, in processes of their own (pytest-xdist): most wait more than they compute. Those
marked `alone` measure what a busy machine would spoil, or keep it that busy; while one of them runs, no other does.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from xdist.scheduler import LoadScopeScheduling

from fanout.model import Endpoint
from tests.ports import free_port
from tests.serving import Ask, ask_async, ask_sync
from tests.shells import Shell, send_async, send_sync


def unavailable(needed: str, reason: str) -> NoReturn:
    """Skip the test, which needs `containers`, `nameserver` or `tools`; fail where FANOUT_REQUIRE names that."""
    if needed in os.environ.get("FANOUT_REQUIRE", "").split(","):
        pytest.fail(f"{needed} required, and {reason}", pytrace=False)
    pytest.skip(f"{needed}: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not tested, and why; what a worker knows is in its reports."""
    skipped = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])]
    reasons = dict.fromkeys(reason.removeprefix("Skipped: ") for reason in skipped)
    if reasons:
        terminalreporter.section("not tested on this machine", yellow=True)
        for reason in reasons:
            terminalreporter.line(reason)


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Test by test; but what uses the images in one process, which builds them once."""

    def _split_scope(self, nodeid: str) -> str:
        return "containers" if nodeid.startswith("tests/containers/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Scheduling:
    return _Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the end what is to be alone, and so waits for the others."""
    items.sort(key=_is_alone)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Take a turn: any number of tests at a time, or one that is to be alone."""
    folder = os.open(item.config.rootpath, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX if _is_alone(item) else fcntl.LOCK_SH)
        return (yield)
    finally:
        os.close(folder)


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Write out what a hostile test has logged and UTF-8 cannot say: on its way from a worker it would end the run."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, (list, tuple)):
        return type(value)(map(_encodable, value))
    return {key: _encodable(each) for key, each in value.items()} if isinstance(value, dict) else value


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
    with contextlib.ExitStack() as stack:

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
    """A port on which nothing listens."""
    return free_port()


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
