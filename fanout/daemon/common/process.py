"""A program as a process: its log, its admin port, its live table, and whether it lives and is ready."""

from __future__ import annotations

import contextlib
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from fanout.daemon.common import live_tables, logs
from fanout.daemon.common.admin import AdminServer
from fanout.daemon.core.text_table import TextTable, Window

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
CHECK_INTERVAL = 1.0
"""Seconds between two checks of a process that runs."""
_CHECK_OVERDUE = 10.0
_Stats = TypeVar("_Stats")
_StatsOut = TypeVar("_StatsOut", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """The process's admin port, drain time and log."""

    admin_host: str | None
    """None for all addresses."""
    admin_port: int
    """0 for none."""
    drain: float = 0.0
    """Seconds to go on after SIGTERM."""
    log_level: str
    log_format: str
    log_file: str | None


class ProgramState(Protocol[_StatsOut]):
    """The state of what a process runs."""

    @property
    def stats(self) -> _StatsOut:
        """A snapshot of the counts since it was opened."""

    @property
    def waiting(self) -> str | None:
        """What it waits for, as one sentence; None where it is ready."""

    @property
    def silence(self) -> float:
        """Seconds since the last turn of its loop."""


class Program(ABC, Generic[_Stats]):
    """What a process runs, as operators see it."""

    state: ProgramState[_Stats]
    started: str
    """The names of the events, as in `fanout.daemon.common.events`."""
    draining: str
    stopped: str
    when_stuck: str
    """Why it is not alive, when checks or turns of its loop are overdue: `... for 12 s`."""

    @abstractmethod
    def introduction(self, admin: str | None) -> dict[str, object]:
        """Return what the log says at the start; `admin` is the address of the admin port."""

    @abstractmethod
    def collectors(self) -> Iterable[Collector]:
        """Return what makes metrics of its counts."""

    @abstractmethod
    def tables(self, before: _Stats, after: _Stats, seconds: float, room: int) -> list[TextTable]:
        """Return the live tables."""

    @abstractmethod
    def log_changes(self, log: FilteringBoundLogger, before: _Stats, after: _Stats) -> None:
        """Log what went wrong between two checks, a second apart."""

    @abstractmethod
    def totals(self, stats: _Stats) -> dict[str, object]:
        """Return what the log says at the end."""


def open_log(settings: ProcessSettings, patience: float | None = None) -> tuple[logs.LogStream, FilteringBoundLogger]:
    """Return the stream of the log (`patience` is its), and what writes to it; raise `FanoutError`."""
    stream = logs.LogStream(settings.log_file, patience=patience)
    return stream, logs.configure(stream, settings.log_format, settings.log_level)


class Process(Generic[_Stats]):
    """Holds a program's log, admin port and live table; the table stays until this is left."""

    def __init__(
        self, settings: ProcessSettings, program: Program[_Stats], stream: logs.LogStream, log: FilteringBoundLogger
    ) -> None:
        self._settings = settings
        self._program = program
        self._stream = stream
        self._log = log
        self._stack = contextlib.ExitStack()
        self._is_draining = False
        self._last = program.state.stats
        self._window: Window[_Stats] = Window()
        self._checked_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Open the admin port, log that the program has started, and show it until it has stopped, as is logged.

        Raises `FanoutError` where the port or the log cannot be used.
        """
        program = self._program
        admin = self._open_admin()
        try:
            self._log.info(program.started, **program.introduction(None if admin is None else str(admin.address)))
            self._stream.started()
            if live_tables.is_wanted(self._settings.log_format):
                self._stack.enter_context(live_tables.LiveTables(self._stream, self._look))
            yield
        finally:
            if admin is not None:
                admin.close()
        stats = self.check()
        self._log.info(program.stopped, **program.totals(stats), lost_lines=self._stream.lost_lines)

    def check(self) -> _Stats:
        """Log what went wrong since the last check, and record that the process lives; return the counts."""
        self._checked_at = time.monotonic()
        stats = self._program.state.stats
        self._program.log_changes(self._log, self._last, stats)
        self._last = stats
        return stats

    def drain(self) -> None:
        """Stop being ready; the program goes on for the drain time."""
        self._is_draining = True
        self._log.info(self._program.draining, seconds=self._settings.drain)

    def _open_admin(self) -> AdminServer | None:
        settings = self._settings
        if settings.admin_port == 0:
            return None
        registry = CollectorRegistry()
        for collector in self._program.collectors():
            registry.register(collector)
        return AdminServer(
            settings.admin_host, settings.admin_port, registry, alive=self._why_dead, ready=self._why_unready
        )

    def _look(self, room: int) -> list[TextTable]:
        stats = self._program.state.stats
        before, seconds = self._window.add(time.monotonic(), stats)
        return self._program.tables(before, stats, seconds, room)

    def _why_dead(self) -> str | None:
        silence = max(time.monotonic() - self._checked_at, self._program.state.silence)
        return f"{self._program.when_stuck} for {silence:.0f} s" if silence > _CHECK_OVERDUE else None

    def _why_unready(self) -> str | None:
        return "draining" if self._is_draining else self._program.state.waiting
