"""One run of a command: bounded in time and output, and killed with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from fanout.options import printable

OUTPUT_MAX = 16 * 1024 * 1024
"""Bytes of standard output that are kept: the most that a reply may have."""
_ERRORS_KEPT = 4096
_LINE_MAX = 200
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Ended(NamedTuple):
    """How a command ended."""

    output: bytes
    problem: str
    """Why it failed, as a part of a sentence; empty where it succeeded."""


async def run(
    arguments: list[str], payload: bytes, *, environment: Mapping[str, str], time_limit: float, wants_output: bool
) -> Ended:
    """Run a command with `payload` on standard input, until it has ended and its output is closed.

    Its process group is killed after `time_limit` seconds, and when this coroutine is cancelled.
    """
    loop = asyncio.get_running_loop()
    said = _Said(loop.create_future())
    try:
        transport, _ = await loop.subprocess_exec(
            lambda: said,
            *arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if wants_output else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Ended(b"", f"cannot run {arguments[0]}: {getattr(error, 'strerror', None) or error}")
    stdin = transport.get_pipe_transport(_STDIN)
    assert isinstance(stdin, asyncio.WriteTransport)  # noqa: S101 - narrows the type
    has_ended = False
    try:
        stdin.write(payload)
        stdin.close()  # once it is written; a command may ignore its input
        async with asyncio.timeout(time_limit):
            await said.everything
        has_ended = True
    except TimeoutError:
        return Ended(b"", f"the command did not end within {time_limit:g} s, and was killed")
    finally:
        if not has_ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(transport.get_pid(), signal.SIGKILL)
            if stdin.get_write_buffer_size():  # somebody outside of the group holds the other end, and does not read
                stdin.abort()
        transport.close()
    return Ended(bytes(said.output), _problem(transport.get_returncode() or 0, bytes(said.errors)))


class _Said(asyncio.SubprocessProtocol):
    """Keeps the output of a command, as much as is wanted."""

    def __init__(self, everything: asyncio.Future[None]) -> None:
        self.everything = everything
        """Done when the command has ended, and its pipes are closed."""
        self.output = bytearray()
        self.errors = bytearray()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == _STDOUT:
            self.output += data[: OUTPUT_MAX - len(self.output)]
        else:
            self.errors = (self.errors + data)[-_ERRORS_KEPT:]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.everything.done():
            self.everything.set_result(None)


def _problem(code: int, errors: bytes) -> str:
    if code == 0:
        return ""
    how = f"exit status {code}" if code > 0 else f"ended by {_signal_name(-code)}"
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    last = printable(lines[-1]) if lines else ""
    return f"{how}: {last[:_LINE_MAX]}" if last else how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
