"""One pod of the local headless Service: a receiver as a process, kept running, with its log.

As in a cluster: a receiver that dies is restarted under the same name and address, with a back-off; it is ready
between its events `receiver_started` and `receiver_draining`, and only then in DNS.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime

from fanout.daemon.common.events import RECEIVER_DRAINING, RECEIVER_STARTED
from fanout.errors import SocketUnavailable
from fanout.local.launch import STOP_GRACE, LocalSettings, describe_end, python_command
from fanout.local.logs import LogFile, parse, render

_FIRST_HOST, _LAST_HOST = 11, 254
_MIN_BACKOFF, _MAX_BACKOFF = 0.2, 5.0
_STABLE_AFTER = 10.0
"""Seconds of running after which the back-off starts from its minimum again."""
_MAX_LINE = 1024 * 1024
"""Bytes: a datagram of 64 KiB is at most 6 times as long when each byte of it is escaped in JSON."""


class PodProcess:
    """One pod, kept running until `await stop()`; `on_change` is called whenever readiness changes."""

    def __init__(
        self,
        name: str,
        *,
        namespace: str,
        settings: LocalSettings,
        directory: str,
        pick_address: Callable[[], str],
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        self.address: str = pick_address()
        self.ready: bool = False
        self.restarts: int = 0
        self.failures: int = 0
        """Ends in a row without having been ready."""
        self.problem: str | None = None
        """What went wrong last, as the receiver wrote it to standard error."""
        self._namespace = namespace
        self._settings = settings
        self._pick_address = pick_address
        self._on_change = on_change
        self._log = LogFile(directory, name)
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._ready_since = 0.0
        self._task = asyncio.create_task(self._keep_running(), name=name)

    @property
    def pid(self) -> int | None:
        """The receiver's process; None while it is not running."""
        return self._process.pid if self._process is not None else None

    @property
    def uptime(self) -> float:
        """Seconds since the receiver became ready; 0 while it is not."""
        return time.monotonic() - self._ready_since if self.ready else 0.0

    async def stop(self) -> None:
        """Take the pod out of DNS, let the receiver drain, and remove its log; kill it where it does not end."""
        self._stopping.set()
        self._set_ready(False)
        self._signal(signal.SIGTERM)
        _, pending = await asyncio.wait({self._task}, timeout=self._settings.drain + STOP_GRACE)
        if pending:
            self._signal(signal.SIGKILL)
        await self._task
        self._log.remove()

    async def _keep_running(self) -> None:
        backoff = _MIN_BACKOFF
        while True:
            started = time.monotonic()
            end = await self._run_once()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _STABLE_AFTER:
                backoff = _MIN_BACKOFF
            self._log_restart(end, backoff)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff)
                return
            self.restarts += 1
            backoff = min(2 * backoff, _MAX_BACKOFF)

    async def _run_once(self) -> str:
        """Run the receiver until it ends; return how it ended, in words."""
        try:
            if self.failures:
                # Not ready at this address: another program may have taken it since it was found free.
                self.address = self._pick_address()
            self._process = process = await asyncio.create_subprocess_exec(
                *python_command("fanout.local.launch", str(os.getpid()), "receive", *self._arguments()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment(),
                limit=_MAX_LINE,
            )
        except (OSError, SocketUnavailable) as error:
            self.problem = str(error)
            self._has_failed()
            return f"not started: {error}"
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        assert process.stdout is not None  # noqa: S101 - narrows the type
        assert process.stderr is not None  # noqa: S101 - narrows the type
        was_ready = self._ready_since
        await asyncio.gather(
            _read_lines(process.stdout, self._take_output), _read_lines(process.stderr, self._take_error)
        )
        code = await process.wait()
        self._process = None
        self._set_ready(False)
        if self._ready_since == was_ready:
            self._has_failed()
        return describe_end(code)

    def _arguments(self) -> tuple[str, ...]:
        return (
            *("--host", self.address),
            *("--port", str(self._settings.port)),
            *("--admin-port", "0"),
            *("--log-format", "json"),
            *("--drain", str(self._settings.drain)),
        )

    def _environment(self) -> dict[str, str]:
        # What the user's FANOUT_* variables set is meant for commands, not for these receivers.
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("FANOUT_")},
            "POD_NAME": self.name,
            "POD_NAMESPACE": self._namespace,
            "POD_IP": self.address,
            "NODE_NAME": socket.gethostname(),
        }

    def _take_output(self, line: bytes) -> None:
        self._write(line)
        # Most lines are about a message: those are not parsed.
        if b'"receiver_' in line and (values := parse(line)) is not None:
            if values["event"] == RECEIVER_STARTED:
                self._set_ready(True)
            elif values["event"] == RECEIVER_DRAINING:
                self._set_ready(False)

    def _take_error(self, line: bytes) -> None:
        self._write(line)
        self.problem = render(line).removeprefix("fanout: ")

    def _write(self, line: bytes) -> None:
        try:
            self._log.write(line)
        except OSError as error:
            self.problem = f"cannot write the log of {self.name}: {error.strerror}"

    def _log_restart(self, reason: str, delay: float) -> None:
        timestamp = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        values = {"event": "pod_restarting", "level": "warning", "timestamp": timestamp, "pod": self.name}
        self._write(json.dumps({**values, "reason": reason, "delay": delay}).encode())

    def _set_ready(self, ready: bool) -> None:
        if ready and not self._stopping.is_set():
            self.ready, self._ready_since = True, time.monotonic()
            self.failures, self.problem = 0, None
        else:
            self.ready = False
        self._on_change()

    def _has_failed(self) -> None:
        self.failures += 1
        self._on_change()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def free_address(port: int, taken: Collection[str]) -> str:
    """Return the first of 127.0.0.11 ... 127.0.0.254 whose UDP port is free and that is not in `taken`.

    Raises `SocketUnavailable` where there is none.
    """
    for number in range(_FIRST_HOST, _LAST_HOST + 1):
        address = f"127.0.0.{number}"
        if address in taken:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise SocketUnavailable(
                        f"cannot use UDP port {port} of {address}: {error.strerror}; the loopback interface "
                        "must have 127.0.0.0/8, as it has on Linux (ip address show lo)"
                    ) from error
            else:
                return address
    raise SocketUnavailable(
        f"UDP port {port} is taken on every address from 127.0.0.{_FIRST_HOST} to 127.0.0.{_LAST_HOST}, most "
        f"likely by a program that listens on 0.0.0.0:{port}: end it (ss -lunp sport = :{port} shows it), "
        "or choose another port (--port)"
    )


async def _read_lines(stream: asyncio.StreamReader, take: Callable[[bytes], None]) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue  # longer than _MAX_LINE: no receiver of ours wrote it, and the stream has dropped it
        if not line:
            return
        take(line.rstrip(b"\r\n"))
