"""`fanout relay ssdp`: media server pods, found and played from the LAN."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from fanout.daemon.common import events
from fanout.daemon.common.process import ProcessSettings
from fanout.daemon.core.ssdp_table import tables
from fanout.daemon.core.text_table import TextTable
from fanout.daemon.relay import runner
from fanout.daemon.relay.runner import since
from fanout.metrics import SsdpCollector
from fanout.ssdp.core.drop_reasons import HttpFailure
from fanout.ssdp.core.stats import SsdpStats
from fanout.ssdp.relay import SsdpRelay


@dataclass(frozen=True, slots=True, kw_only=True)
class SsdpSettings(ProcessSettings):
    """Whose devices to bring where, and how to log; the defaults are those of `fanout relay ssdp`."""

    service: str
    interface: str
    http_ports: str
    """FIRST-LAST."""
    descriptions: tuple[str, ...]
    """PORT/PATH of device descriptions at the pods."""
    allow_source: tuple[str, ...]
    family: str
    nameserver: str | None
    allow_loopback: bool
    interface_timeout: float
    """Seconds that the interface may take to appear."""


def run(settings: SsdpSettings) -> None:
    """Answer and carry until SIGTERM or SIGINT; raise `FanoutError` where it cannot start, or cannot go on."""
    runner.run(settings, lambda: _SsdpProgram(settings))


class _SsdpProgram(runner.RelayProgram[SsdpStats]):
    started, draining, stopped = events.SSDP_RELAY_STARTED, events.SSDP_RELAY_DRAINING, events.SSDP_RELAY_STOPPED

    def __init__(self, settings: SsdpSettings) -> None:
        self._settings = settings
        self.state = SsdpRelay(
            settings.service,
            settings.interface,
            http_ports=settings.http_ports,
            descriptions=settings.descriptions,
            allow_source=settings.allow_source,
            family=settings.family,
            nameserver=settings.nameserver,
            allow_loopback=settings.allow_loopback,
            interface_timeout=settings.interface_timeout,
        )

    def introduction(self, admin: str | None) -> dict[str, object]:
        settings = self._settings
        return {
            "service": settings.service,
            "interface": settings.interface,
            "http_ports": settings.http_ports,
            "descriptions": list(settings.descriptions),
            "allow_source": list(settings.allow_source),
            "admin": admin,
        }

    def collectors(self) -> Iterable[Collector]:
        return (SsdpCollector(lambda: self.state.stats),)

    def tables(self, before: SsdpStats, after: SsdpStats, seconds: float, room: int) -> list[TextTable]:
        return tables(before, after, seconds, room, self.state.waiting)

    def log_changes(self, log: FilteringBoundLogger, before: SsdpStats, after: SsdpStats) -> None:
        """Log what was dropped and what failed since the last time, by reason."""
        if dropped := since(before.dropped, after.dropped):
            log.warning(events.SEARCHES_DROPPED, dropped=dropped)
        if failures := since(before.http.failures, after.http.failures):
            # A player that skips through a film hangs up each time.
            tell = log.info if failures.keys() == {HttpFailure.CLIENT_GONE.value} else log.warning
            tell(events.HTTP_FAILURES, failures=failures)

    def totals(self, stats: SsdpStats) -> dict[str, object]:
        http = stats.http
        return {
            "searches": stats.searches,
            "answers": stats.answers,
            "announcements": dict(stats.announcements),
            "foreign": stats.foreign,
            "dropped": since({}, stats.dropped),
            "requests": sum(http.statuses.values()),
            "bytes": sum(http.bytes.values()),
            "events": http.events,
            "rewritten": http.rewritten,
            "left": http.left,
            "failures": since({}, http.failures),
        }
