"""Runs a relay of any kind in a thread, while the main thread waits for signals and checks the process."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from fanout.daemon.common.process import (
    CHECK_INTERVAL,
    STOP_SIGNALS,
    Process,
    ProcessSettings,
    Program,
    ProgramState,
    open_log,
)

_Stats = TypeVar("_Stats")
_StatsOut = TypeVar("_StatsOut", covariant=True)
_Reason = TypeVar("_Reason", bound=str)
_OPEN_FILES = 65_536
_LOG_PATIENCE = 1.0
"""Seconds: a log that nobody reads must not stop what is forwarded."""


class RelayService(ProgramState[_StatsOut], Protocol[_StatsOut]):
    """What a relay of the library is to its program."""

    def __enter__(self) -> Self:
        """Open it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Close it."""

    def serve(self) -> None:
        """Work until `stop`, or until it cannot go on."""

    def stop(self) -> None:
        """Let `serve` return, from any thread."""


class RelayProgram(Program[_Stats]):
    """A program that is a relay."""

    state: RelayService[_Stats]
    when_stuck = "it has not been checked"


def run(settings: ProcessSettings, make_program: Callable[[], RelayProgram[_Stats]]) -> None:
    """Relay until SIGTERM or SIGINT; raise `FanoutError` where it cannot start, or cannot go on."""
    # They are waited for instead of handled, and the threads that are started from now on leave them alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    _allow_sockets()
    stream, log = open_log(settings, _LOG_PATIENCE)
    program = make_program()
    with Process(settings, program, stream, log) as process:
        _Runner(program.state, process).run(settings.drain)


def since(before: Mapping[_Reason, int], after: Mapping[_Reason, int]) -> dict[str, int]:
    """Return the increase of the counts by reason that have grown."""
    grown = {str(reason): count - before.get(reason, 0) for reason, count in after.items()}
    return {reason: count for reason, count in grown.items() if count > 0}


def _allow_sockets() -> None:
    """Raise the limit of open files (usually 1,024): each port takes one, and one more for each pod."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


class _Runner(Generic[_Stats]):
    def __init__(self, relay: RelayService[_Stats], process: Process[_Stats]) -> None:
        self._relay = relay
        self._process = process
        self._thread = threading.Thread(target=self._serve, name="fanout-relay", daemon=True)
        self._error: BaseException | None = None

    def run(self, drain: float) -> None:
        with self._relay, self._process.running():
            self._thread.start()
            if self._signal_comes_within(None):
                self._process.drain()
                self._signal_comes_within(drain)
            self._relay.stop()
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _serve(self) -> None:
        try:
            self._relay.serve()
        except BaseException as error:
            self._error = error

    def _signal_comes_within(self, seconds: float | None) -> bool:
        """Check the process until a signal comes, the time is up, or the relay has ended by itself."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._thread.is_alive():
            left = CHECK_INTERVAL if deadline is None else min(CHECK_INTERVAL, deadline - time.monotonic())
            caught = signal.sigtimedwait(STOP_SIGNALS, max(left, 0.0))
            # Interrupted at the end of its time (by SIGSTOP and SIGCONT, for instance), Python 3.11 reports a signal
            # that did not come, with an arbitrary number.
            if caught is not None and caught.si_signo in STOP_SIGNALS:
                return True
            if deadline is not None and time.monotonic() >= deadline:
                break
            self._process.check()
        return False
