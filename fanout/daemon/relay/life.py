"""The life of a relay app, whatever it relays: start, be ready, keep house, drain, stop."""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from fanout.daemon.common import live, logs
from fanout.daemon.common.admin import AdminServer
from fanout.daemon.common.rates import TextTable, Window

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_Stats = TypeVar("_Stats")
_StatsOut = TypeVar("_StatsOut", covariant=True)
_Reason = TypeVar("_Reason", bound=str)
_HOUSEKEEPING = 1.0
_OPEN_FILES = 65_536
_LOG_PATIENCE = 1.0  # a log that nobody reads must not stop what is forwarded
_HOUSEKEEPING_OVERDUE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """How the process is asked how it is, how it ends, and how it logs."""

    admin_host: str | None
    """None for all addresses."""
    admin_port: int
    """0 for none."""
    drain: float = 0.0
    """Seconds to go on forwarding after SIGTERM."""
    log_level: str
    log_format: str
    log_file: str | None


class Served(Protocol[_StatsOut]):
    """What a relay of the library is to its app."""

    @property
    def stats(self) -> _StatsOut:
        """Counts since it was opened, as they are now: those of the next look are others."""

    @property
    def waiting(self) -> str | None:
        """What it waits for, as one sentence; None where it is ready."""

    @property
    def silence(self) -> float:
        """Seconds since it last went round."""

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


class Work(ABC, Generic[_Stats]):
    """What an app does with its life: a relay, and what is to be told of it."""

    relay: Served[_Stats]
    started: str
    """The names of the events, as in `fanout.daemon.relay.events`."""
    draining: str
    stopped: str

    @abstractmethod
    def introduction(self) -> dict[str, object]:
        """Return what the log says of it at the start."""

    @abstractmethod
    def collector(self) -> Collector:
        """Return what makes metrics of its counts."""

    @abstractmethod
    def tables(self, before: _Stats, after: _Stats, seconds: float, room: int) -> list[TextTable]:
        """Return the live tables."""

    @abstractmethod
    def tidy(self, log: FilteringBoundLogger, before: _Stats, after: _Stats) -> None:
        """Log what went wrong between two looks, a second apart."""

    @abstractmethod
    def totals(self, stats: _Stats) -> dict[str, object]:
        """Return what the log says of it at the end."""


def run(settings: ProcessSettings, work: Callable[[], Work[_Stats]]) -> None:
    """Do that work until SIGTERM or SIGINT; raise `FanoutError` where it cannot start, or cannot go on."""
    # They are waited for instead of handled, and the threads that are started from now on leave them alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    _allow_sockets()
    stream = logs.LogStream(settings.log_file, patience=_LOG_PATIENCE)
    with contextlib.ExitStack() as stack:
        _RelayApp(settings, work, stream, stack).run()


def since(before: Mapping[_Reason, int], after: Mapping[_Reason, int]) -> dict[str, int]:
    """Return how much counts by reason have grown, of those that have."""
    grown = {str(reason): count - before.get(reason, 0) for reason, count in after.items()}
    return {reason: count for reason, count in grown.items() if count > 0}


def _allow_sockets() -> None:
    """Have as many open files as may be: each port takes one, and one for each pod; 1,024 is the usual limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


class _RelayApp(Generic[_Stats]):
    def __init__(
        self,
        settings: ProcessSettings,
        work: Callable[[], Work[_Stats]],
        stream: logs.LogStream,
        stack: contextlib.ExitStack,
    ) -> None:
        self._settings = settings
        self._stream = stream
        self._stack = stack
        self._log = logs.configure(stream, settings.log_format, settings.log_level)
        self._work = work()
        self._relay = self._work.relay
        self._thread = threading.Thread(target=self._serve, name="fanout-relay", daemon=True)
        self._error: BaseException | None = None
        self._is_draining = False
        self._told = self._relay.stats
        self._window: Window[_Stats] = Window()
        self._beat = time.monotonic()

    def run(self) -> None:
        settings, work = self._settings, self._work
        with self._relay as relay:
            admin = self._open_admin()
            try:
                self._log.info(work.started, **work.introduction(), admin=None if admin is None else str(admin.address))
                self._stream.started()
                if live.is_wanted(settings.log_format):
                    self._stack.enter_context(live.LiveTables(self._stream, self._look))
                self._thread.start()
                if self._is_told_to_stop_within(None):
                    self._is_draining = True
                    self._log.info(work.draining, seconds=settings.drain)
                    self._is_told_to_stop_within(settings.drain)
                relay.stop()
                self._thread.join()
            finally:
                if admin is not None:
                    admin.close()
            stats = relay.stats
            self._tidy(stats)
            self._log.info(work.stopped, **work.totals(stats), lost_lines=self._stream.lost_lines)
        if self._error is not None:
            raise self._error

    def _serve(self) -> None:
        try:
            self._relay.serve()
        except BaseException as error:
            self._error = error

    def _open_admin(self) -> AdminServer | None:
        if self._settings.admin_port == 0:
            return None
        registry = CollectorRegistry()
        registry.register(self._work.collector())
        return AdminServer(
            self._settings.admin_host,
            self._settings.admin_port,
            registry,
            alive=self._why_dead,
            ready=self._why_unready,
        )

    def _look(self, room: int) -> list[TextTable]:
        stats = self._relay.stats
        before, seconds = self._window.add(time.monotonic(), stats)
        return self._work.tables(before, stats, seconds, room)

    def _why_dead(self) -> str | None:
        silence = max(time.monotonic() - self._beat, self._relay.silence)
        return f"nobody has looked after it for {silence:.0f} s" if silence > _HOUSEKEEPING_OVERDUE else None

    def _why_unready(self) -> str | None:
        return "draining" if self._is_draining else self._relay.waiting

    def _is_told_to_stop_within(self, seconds: float | None) -> bool:
        """Keep house until a signal comes, the time is up, or the relay has ended by itself."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._thread.is_alive():
            left = _HOUSEKEEPING if deadline is None else min(_HOUSEKEEPING, deadline - time.monotonic())
            told = signal.sigtimedwait(_STOP_SIGNALS, max(left, 0.0))
            # Interrupted at the end of its time (SIGSTOP and SIGCONT, for one), Python 3.11 tells of a signal that
            # was none, with whatever number.
            if told is not None and told.si_signo in _STOP_SIGNALS:
                return True
            if deadline is not None and time.monotonic() >= deadline:
                break
            self._beat = time.monotonic()
            self._tidy(self._relay.stats)
        return False

    def _tidy(self, stats: _Stats) -> None:
        """Log what went wrong since the last time."""
        self._work.tidy(self._log, self._told, stats)
        self._told = stats
