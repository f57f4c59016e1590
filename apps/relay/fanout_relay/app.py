"""The relay's life: listen, forward, be ready, drain, stop."""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry

from fanout.app import live, logs
from fanout.app.admin import AdminServer
from fanout.app.rates import Table, Window
from fanout.metrics import RelayCollector
from fanout.relay.ingress import Ingress
from fanout.relay.reasons import RelayDrop
from fanout.relay.relay import Relay
from fanout.relay.stats import RelayStats
from fanout.report import DropReason
from fanout_relay import events
from fanout_relay.table import tables

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_Reason = TypeVar("_Reason", RelayDrop, DropReason)
_HOUSEKEEPING = 1.0
_OPEN_FILES = 65_536
_LOG_PATIENCE = 1.0  # a log that nobody reads must not stop what is forwarded
_HOUSEKEEPING_OVERDUE = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What to forward and how to log; the defaults are those of `fanout relay`."""

    ingresses: tuple[Ingress, ...]
    loop_guard: bool
    family: str
    nameserver: str | None
    allow_loopback: bool
    receive_buffer: int
    interface_timeout: float
    """Seconds that interfaces may take to appear."""
    admin_host: str | None
    """None for all addresses."""
    admin_port: int
    """0 for none."""
    drain: float
    """Seconds to go on forwarding after SIGTERM."""
    log_level: str
    log_format: str
    log_file: str | None


def run(settings: Settings) -> None:
    """Forward until SIGTERM or SIGINT; raise `FanoutError` where it cannot start, or cannot go on."""
    # They are waited for instead of handled, and the threads that are started from now on leave them alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    _allow_sockets()
    stream = logs.LogStream(settings.log_file, patience=_LOG_PATIENCE)
    with contextlib.ExitStack() as stack:
        _App(settings, stream, stack).run()


def _allow_sockets() -> None:
    """Have as many open files as may be: each port takes one, and one for each pod; 1,024 is the usual limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


class _App:
    def __init__(self, settings: Settings, stream: logs.LogStream, stack: contextlib.ExitStack) -> None:
        self._settings = settings
        self._stream = stream
        self._stack = stack
        self._log = logs.configure(stream, settings.log_format, settings.log_level)
        self._relay = Relay(
            ingresses=settings.ingresses,
            loop_guard=settings.loop_guard,
            family=settings.family,
            nameserver=settings.nameserver,
            allow_loopback=settings.allow_loopback,
            receive_buffer=settings.receive_buffer,
            interface_timeout=settings.interface_timeout,
        )
        self._thread = threading.Thread(target=self._serve, name="fanout-relay", daemon=True)
        self._error: BaseException | None = None
        self._is_draining = False
        self._told = RelayStats([], [])
        self._window: Window[RelayStats] = Window()
        self._beat = time.monotonic()

    def run(self) -> None:
        settings = self._settings
        with self._relay as relay:
            admin = self._open_admin()
            try:
                self._log.info(
                    events.RELAY_STARTED,
                    ingresses=[str(ingress) for ingress in settings.ingresses],
                    services=sorted({ingress.service for ingress in settings.ingresses}),
                    admin=None if admin is None else str(admin.address),
                )
                self._stream.started()
                if live.is_wanted(settings.log_format):
                    self._stack.enter_context(live.Live(self._stream, self._look))
                self._thread.start()
                if self._is_told_to_stop_within(None):
                    self._is_draining = True
                    self._log.info(events.RELAY_DRAINING, seconds=settings.drain)
                    self._is_told_to_stop_within(settings.drain)
                relay.stop()
                self._thread.join()
            finally:
                if admin is not None:
                    admin.close()
            stats = relay.stats
            self._tidy(stats)
            self._log.info(events.RELAY_STOPPED, **_totals(stats), lost_lines=self._stream.lost_lines)
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
        registry.register(RelayCollector(lambda: self._relay.stats))
        return AdminServer(
            self._settings.admin_host,
            self._settings.admin_port,
            registry,
            alive=self._why_dead,
            ready=self._why_unready,
        )

    def _look(self, room: int) -> list[Table]:
        stats = self._relay.stats
        before, seconds = self._window.add(time.monotonic(), stats)
        return tables(before, stats, seconds, room)

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

    def _tidy(self, stats: RelayStats) -> None:
        """Log what was dropped since the last time, by ingress and reason."""
        known = {(each.ingress, each.service): each.dropped for each in self._told.ingresses}
        for each in stats.ingresses:
            if dropped := _since(known.get((each.ingress, each.service), {}), each.dropped):
                self._log.warning(events.DATAGRAMS_DROPPED, ingress=each.ingress, service=each.service, dropped=dropped)
        if dropped := _since(self._told.dropped, stats.dropped):
            self._log.warning(events.COPIES_DROPPED, dropped=dropped)
        if stats.refused > self._told.refused:
            self._log.warning(events.COPIES_REFUSED, count=stats.refused - self._told.refused)
        self._told = stats


def _since(before: Mapping[_Reason, int], after: Mapping[_Reason, int]) -> dict[str, int]:
    grown = {reason.value: count - before.get(reason, 0) for reason, count in after.items()}
    return {reason: count for reason, count in grown.items() if count > 0}


def _totals(stats: RelayStats) -> dict[str, object]:
    dropped: Counter[str] = Counter()
    for each in stats.ingresses:
        dropped.update({reason.value: count for reason, count in each.dropped.items()})
    return {
        "datagrams": sum(each.datagrams for each in stats.ingresses),
        "bytes": sum(each.bytes for each in stats.ingresses),
        "forwarded": sum(each.forwarded for each in stats.ingresses),
        "dropped": dict(dropped),
        "sent": stats.sent,
        "refused": stats.refused,
        "not_sent": {reason.value: count for reason, count in stats.dropped.items()},
    }
