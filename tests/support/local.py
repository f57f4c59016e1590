"""`fanout local` with a state directory and a port of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from fanout.local.launch import LocalSettings, launch
from fanout.local.state import LocalService
from tests.support.cli import FANOUT, Running, environment, invoke
from tests.support.limits import PATIENT, Limits, setting, variables
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until

POD = "statefulset-udp-server"
_HERE: Limits = {**PATIENT, "fanout.cli.commands.local:STATUS_TIMEOUT": PATIENCE}
"""A machine that stands still is not taken for a nameserver or a supervisor that hangs."""
_ELSEWHERE: Limits = {**_HERE, "fanout.local.pod_process:STOP_GRACE": PATIENCE}
"""Nor for a receiver that hangs."""

SERVICE = LocalService(
    pid=os.getpid(),
    nameserver="127.0.0.1:4711",
    search=("local.svc.cluster.local", "svc.cluster.local", "cluster.local"),
    ndots=5,
    service="headless-udp",
    port=12000,
    directory="",
)


def lives(pid: int) -> bool:
    """Whether a process, or a thread of it, runs; one that only waits to be reaped does not."""
    process = Path(f"/proc/{pid}")
    try:
        is_zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return not is_zombie or len(list((process / "task").iterdir())) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def until_ended(processes: Iterable[int]) -> None:
    until(lambda: not any(map(lives, processes)), lambda: f"{list(filter(lives, processes))} end")


class Local:
    """The commands: in this process, or as processes that end with it at the latest."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.port = free_port()
        # FANOUT_PID: a test run that is killed leaves nothing running.
        self.variables = {"FANOUT_LOCAL_DIR": str(directory), "FANOUT_PID": str(os.getpid()), "FANOUT_DRAIN": "0"}
        self.variables |= variables(_ELSEWHERE)
        self._stack = stack

    def up(self, replicas: int, *, drain: float = 0.0) -> None:
        """Do as `fanout local up --detach`."""
        with mock.patch.dict(os.environ, environment(**self.variables), clear=True):
            supervisor, _ = launch(LocalSettings(replicas, self.port, drain, (os.getpid(),)))
        self._stack.callback(_end, supervisor)

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*FANOUT, *arguments],
            env=environment(**self.variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **settings,
        )
        self._stack.callback(_end, process)
        return process

    def in_the_foreground(self, replicas: int = 1) -> Running:
        """Do as `fanout local up`, as the leader of a session, until the logs of all pods are shown."""
        arguments = ("local", "up", "-r", str(replicas), "-p", str(self.port))
        up = Running(arguments, self.directory.parent, self.variables, start_new_session=True)
        self._stack.callback(_end, up.process)
        up.wait_until(lambda: up.out.count("receiver_started") == replicas)
        return up

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command; return what it printed, or the one sentence it complained with."""
        with setting(_HERE):
            run = invoke(*arguments, **self.variables)
        assert run.code == code, run.err
        if not code:
            return run.out
        assert not run.out
        return run.assert_one_sentence(code)

    def status(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.run("local", "status", "-o", "json"))
        return values

    def pods(self) -> dict[str, dict[str, Any]]:
        return {pod["name"]: pod for pod in self.status()["pods"]}

    def processes(self) -> list[int]:
        status = self.status()
        return [status["pid"], *(pod["pid"] for pod in status["pods"])]

    def sent(self, message: str) -> set[str]:
        """Send, and return the pods that were sent to."""
        output = self.run("send", "-s", "headless-udp", "-p", str(self.port), "-m", message)
        return set(re.findall(r"^sent message to (127\.\S+):\d+$", output, re.MULTILINE))

    def having_logged(self, payload: str) -> set[str]:
        events = [json.loads(text) for text in self.run("local", "logs", "-o", "json").splitlines()]
        return {event["pod"] for event in events if event.get("payload") == payload}

    def assert_nothing_is_left(self, processes: list[int]) -> None:
        until_ended(processes)
        assert not self.directory.exists()


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a folder for a Unix socket, whose path has to be short: pytest's and TMPDIR may not be."""
    folder = Path(tempfile.mkdtemp(prefix="fanout-test-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def local_service() -> Iterator[Local]:
    """Yield a `Local`; what it started is ended, whatever became of it."""
    with contextlib.ExitStack() as stack:
        yield Local(stack.enter_context(short_folder()) / "state", stack)


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process; receivers end with their supervisor, and that with the process that it watches."""
    with suppress(ProcessLookupError):
        process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
