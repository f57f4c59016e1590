"""Processes that take commands on their standard input, a line each, and answer each with a line of JSON."""

from __future__ import annotations

import functools
import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from benchmarks.lab import GROUP, PORT, Lab

_SOURCES = Path(__file__).parent / "c"
T = TypeVar("T")
_PATIENCE = 20
"""Looks, ten milliseconds apart: on a busy machine the kernel's own threads may have to wait for a core, too."""
LONG_PATIENCE = 10_000
"""The same where nothing should be missing: waiting for all of it may take long."""
_BUILT = Path("build", "bench")
KEY_FILE = _BUILT / "key"
"""Of those that seal: `make_key` writes it."""


def why_no_compiler() -> str | None:
    """Return in one line why nothing written in C can take part; None where it can."""
    return None if shutil.which("gcc") else "the C compiler gcc is missing (Debian, Ubuntu: apt install gcc)"


def compiled(name: str) -> str:
    """Compile `benchmarks/c/NAME.c`, once, and return the program."""
    return _compiled(name, _BUILT)


@functools.cache
def _compiled(name: str, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    subprocess.run(["gcc", "-O2", "-Wall", "-o", str(program), str(_SOURCES / f"{name}.c")], check=True)
    return str(program.absolute())


def make_key() -> None:
    """Write the key of those that seal."""
    _BUILT.mkdir(parents=True, exist_ok=True)
    KEY_FILE.write_text(f"{secrets.token_hex(32)}\n")


class Helper:
    """One such process. It ends with the end of its input, and is killed where it does not."""

    def __init__(self, command: Sequence[str], *, core: int | None = None) -> None:
        pinned = ["taskset", "--cpu-list", str(core)] if core is not None and shutil.which("taskset") else []
        self._name = " ".join(command)[:200]
        self._process = subprocess.Popen(
            [*pinned, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for the bench, which ends its helpers
        )
        try:
            self.answer = self._read(120)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def cpu_time(self) -> int:
        """Return the nanoseconds of CPU that it has taken so far."""
        return cpu_time(self.pid)

    def ask(self, command: str, timeout: float = 120) -> Any:
        """Give a command and return its answer."""
        self.tell(command)
        return self._read(timeout)

    def tell(self, command: str) -> None:
        """Give a command whose answer is read later."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def _read(self, timeout: float) -> Any:
        out = self._process.stdout
        assert out is not None
        if not select.select([out], [], [], timeout)[0]:
            raise TimeoutError(f"no answer within {timeout} s from {self._name}")
        line = out.readline()
        if not line:
            raise ChildProcessError(f"ended with {self._process.wait()}: {self._name}")
        return json.loads(line)

    def read(self, timeout: float) -> Any:
        """Return the next answer."""
        return self._read(timeout)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Counter(Helper):
    """The receivers that count: one process, a socket in each pod."""

    def __init__(self, lab: Lab, pods: int) -> None:
        where = [f"{lab.namespace(pod)}@{lab.address(pod)}" for pod in range(pods)]
        group = "-" if lab.loopback else GROUP
        super().__init__([compiled("counter"), str(PORT), group, *where], core=receiving_core())

    def take_gro(self, on: bool) -> None:
        """Return whether the sockets take runs of segments as one."""
        self.ask(f"gro {int(on)}")

    def read_pods(self, expected: int = 0, *, patience: int = _PATIENCE) -> list[dict[str, int]]:
        """Return each pod's counts, once `expected` datagrams are there, or `patience` looks in a row find no more."""

        def read() -> list[dict[str, int]]:
            pods: list[dict[str, int]] = self.ask("read")
            return pods

        def is_all(pods: list[dict[str, int]]) -> bool:
            return 0 < expected <= sum(pod["datagrams"] for pod in pods)

        return settled(read, is_all, patience)


def settled(look: Callable[[], T], is_enough: Callable[[T], bool], patience: int) -> T:
    """Look every 10 ms; return what is seen once that is enough, or once `patience` looks in a row see nothing new."""
    left, before = patience, None
    while not is_enough(now := look()):
        left = left - 1 if now == before else patience
        if not left:
            break
        before = now
        time.sleep(0.01)
    return now


def cpu_time(pid: int) -> int:
    """Return the nanoseconds of CPU, user and system, that a process has taken so far, by the kernel's own count."""
    # Any process's clock can be read: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel's posix-timers.h.
    return time.clock_gettime_ns(~pid << 3 | 2)


def sending_core() -> int | None:
    """Contenders run on the first core, those that they send to on the second: so they do not meet."""
    return min(os.sched_getaffinity(0)) if len(os.sched_getaffinity(0)) > 1 else None


def receiving_core() -> int | None:
    """See `sending_core`."""
    return sorted(os.sched_getaffinity(0))[1] if len(os.sched_getaffinity(0)) > 1 else None


def python(module: str, *arguments: str) -> list[str]:
    """Return the command of a module of the bench."""
    return [sys.executable, "-m", f"benchmarks.{module}", *arguments]
