"""`fanout relay`: forwards datagrams of groups, broadcast and port ranges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from fanout.daemon.common import events
from fanout.daemon.common.process import ProcessSettings
from fanout.daemon.core.relay_table import tables
from fanout.daemon.core.text_table import TextTable
from fanout.daemon.relay import runner
from fanout.daemon.relay.runner import since
from fanout.metrics import RelayCollector
from fanout.relay.core.ingress import Ingress
from fanout.relay.core.stats import RelayStats
from fanout.relay.relay import Relay


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings(ProcessSettings):
    """What to forward and how to log; the defaults are those of `fanout relay`."""

    ingresses: tuple[Ingress, ...]
    loop_guard: bool
    family: str
    nameserver: str | None
    allow_loopback: bool
    receive_buffer: int
    interface_timeout: float
    """Seconds that interfaces may take to appear."""


def run(settings: RelaySettings) -> None:
    """Forward until SIGTERM or SIGINT; raise `FanoutError` where it cannot start, or cannot go on."""
    runner.run(settings, lambda: _DatagramProgram(settings))


class _DatagramProgram(runner.RelayProgram[RelayStats]):
    started, draining, stopped = events.RELAY_STARTED, events.RELAY_DRAINING, events.RELAY_STOPPED

    def __init__(self, settings: RelaySettings) -> None:
        self._ingresses = settings.ingresses
        self.state = Relay(
            ingresses=settings.ingresses,
            loop_guard=settings.loop_guard,
            family=settings.family,
            nameserver=settings.nameserver,
            allow_loopback=settings.allow_loopback,
            receive_buffer=settings.receive_buffer,
            interface_timeout=settings.interface_timeout,
        )

    def introduction(self, admin: str | None) -> dict[str, object]:
        return {
            "ingresses": [str(ingress) for ingress in self._ingresses],
            "services": sorted({ingress.service for ingress in self._ingresses}),
            "admin": admin,
        }

    def collectors(self) -> Iterable[Collector]:
        return (RelayCollector(lambda: self.state.stats),)

    def tables(self, before: RelayStats, after: RelayStats, seconds: float, room: int) -> list[TextTable]:
        return tables(before, after, seconds, room)

    def log_changes(self, log: FilteringBoundLogger, before: RelayStats, after: RelayStats) -> None:
        """Log what was dropped since the last time, by ingress and reason."""
        known = {(each.ingress, each.service): each.dropped for each in before.ingresses}
        for each in after.ingresses:
            if dropped := since(known.get((each.ingress, each.service), {}), each.dropped):
                log.warning(events.DATAGRAMS_DROPPED, ingress=each.ingress, service=each.service, dropped=dropped)
        if dropped := since(before.dropped, after.dropped):
            log.warning(events.COPIES_DROPPED, dropped=dropped)
        if after.refused > before.refused:
            log.warning(events.COPIES_REFUSED, count=after.refused - before.refused)

    def totals(self, stats: RelayStats) -> dict[str, object]:
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
