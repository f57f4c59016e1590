"""Run the command line as a user does: a process of its own, its output and its exit code."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO
from unittest import mock

import structlog

from fanout.cli.main import main
from tests.support.waiting import PATIENCE, until

FOREIGN = (
    *("FANOUT_", "KUBERNETES_", "POD_"),
    *("CLICOLOR", "COLORTERM", "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "TERM", "TTY_"),
)
"""How variables begin that are for fanout, a pod or a terminal: a test sets those that it wants."""
FANOUT = [sys.executable, "-m", "fanout"]
_GRACE = 10.0
"""Seconds that one has to end when its test is over."""


class Run(NamedTuple):
    """What one run printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which is one JSON object on one line."""
        (line,) = self.out.splitlines()
        parsed: dict[str, Any] = strict_json(line)
        return parsed

    def assert_one_sentence(self, code: int) -> str:
        """Assert that the run failed with `code` and one line on standard error; return that line."""
        assert self.code == code, self
        (line,) = self.err.splitlines()
        assert line.startswith("fanout: ")
        assert "Traceback" not in self.out
        return line


def strict_json(line: str) -> dict[str, Any]:
    """Parse JSON as RFC 8259 has it: no NaN, no infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    value = json.loads(line, parse_constant=refuse)
    assert isinstance(value, dict)
    return value


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without what is for fanout, a pod or a terminal, and with those given."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    return {**kept, "TERM": "xterm", "FANOUT_LOCAL_DIR": "/nonexistent", **variables}


def fanout(*arguments: str, stdin: bytes = b"", **variables: str) -> Run:
    """Run `fanout` to its end."""
    done = subprocess.run(
        [*FANOUT, *arguments],
        input=stdin,
        capture_output=True,
        env=environment(**variables),
        timeout=PATIENCE,
        check=False,
    )
    return Run(done.returncode, done.stdout.decode(), done.stderr.decode())


def invoke(*arguments: str, stdin: bytes | str = b"", **variables: str) -> Run:
    """Run `fanout` in this process, from its main thread: what needs none of its own is there sooner."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2))
    code = call(arguments, out, err, stdin=stdin, variables=variables)
    return Run(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def call(
    arguments: Sequence[str], out: TextIO, err: TextIO, *, stdin: bytes | str = b"", variables: Mapping[str, str]
) -> int:
    """Run `fanout` in this process with these for standard output and error; return its exit code."""
    read = stdin.encode() if isinstance(stdin, str) else stdin
    with (
        mock.patch.dict(os.environ, environment(**variables), clear=True),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(read), "utf-8")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        as_before(),
    ):
        try:
            return main(list(arguments))
        except SystemExit as end:  # as click ends where it completes what a shell's user types
            return int(end.code or 0)


@contextmanager
def as_before() -> Iterator[None]:
    """Undo what a command does to its process, which would end now: it takes signals, and configures the log."""
    library = logging.getLogger("fanout")
    level, handlers = library.level, library.handlers[:]
    structure = structlog.get_config()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    caught = {number: signal.getsignal(number) for number in numbers}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield
    finally:
        structlog.configure(**structure)
        library.setLevel(level)
        library.handlers[:] = handlers
        for number, handler in caught.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class Running:
    """A `fanout`, or another `program`, that goes on: its output goes to files, and it is ended by its process id."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        folder: Path,
        variables: dict[str, str],
        stdin: int | None = None,
        *,
        program: Sequence[str] = FANOUT,
        start_new_session: bool = False,
    ) -> None:
        self._out, self._err = folder / "out", folder / "err"
        self._is_fanout = {*FANOUT} <= {*program, *arguments}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*program, *arguments],
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=out,
                stderr=err,
                env=environment(**variables),
                start_new_session=start_new_session,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The log as strict JSON, of one event or of all; of a line that is being written nothing."""
        lines = [strict_json(line) for line in self.out.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if name in (None, line["event"])]

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until that holds; fail at once where the process has ended before."""

        def holds() -> bool:
            if condition():
                return True
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.out}{self.err}"
            return False

        until(holds, lambda: f"{self.out}{self.err}")

    def stop(self, number: int = signal.SIGTERM) -> Run:
        self.process.send_signal(number)
        return self.end()

    def end(self) -> Run:
        return Run(self.process.wait(timeout=PATIENCE), self.out, self.err)

    def end_now(self) -> None:
        """End it if it still goes on: a fanout as a pod is ended, for then it says what of it was reached."""
        if self.process.poll() is None and self._is_fanout:
            for number in (signal.SIGTERM, signal.SIGCONT):  # a test may have stopped it
                self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=_GRACE)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def running(folder: Path, *arguments: str, stdin: int | None = None, **variables: str) -> Iterator[Running]:
    """Run `fanout` beside the test."""
    run = Running(arguments, folder, variables, stdin)
    try:
        yield run
    finally:
        run.end_now()


@contextmanager
def receiving(folder: Path, *arguments: str, **variables: str) -> Iterator[tuple[Running, str]]:
    """Run `fanout receive` on a free port of 127.0.0.1; yield it and its endpoint."""
    defaults = ("receive", "--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--drain", "0")
    with running(folder, *defaults, *arguments, stdin=None, **variables) as receiver:
        receiver.wait_until(lambda: "receiver_started" in receiver.out)
        yield receiver, receiver.events("receiver_started")[0]["address"]
