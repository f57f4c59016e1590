"""`fanout relay`: forwards datagrams of groups, broadcast and port ranges."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from fanout.daemon.common.rates import TextTable
from fanout.daemon.relay import events, life
from fanout.daemon.relay.life import since
from fanout.daemon.relay.table import tables
from fanout.metrics import RelayCollector
from fanout.relay.core.ingress import Ingress
from fanout.relay.core.stats import RelayStats
from fanout.relay.relay import Relay


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings(life.ProcessSettings):
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
    life.run(settings, lambda: _Forwarding(settings))


class _Forwarding(life.Work[RelayStats]):
    started, draining, stopped = events.RELAY_STARTED, events.RELAY_DRAINING, events.RELAY_STOPPED

    def __init__(self, settings: RelaySettings) -> None:
        self._ingresses = settings.ingresses
        self.relay = Relay(
            ingresses=settings.ingresses,
            loop_guard=settings.loop_guard,
            family=settings.family,
            nameserver=settings.nameserver,
            allow_loopback=settings.allow_loopback,
            receive_buffer=settings.receive_buffer,
            interface_timeout=settings.interface_timeout,
        )

    def introduction(self) -> dict[str, object]:
        return {
            "ingresses": [str(ingress) for ingress in self._ingresses],
            "services": sorted({ingress.service for ingress in self._ingresses}),
        }

    def collector(self) -> RelayCollector:
        return RelayCollector(lambda: self.relay.stats)

    def tables(self, before: RelayStats, after: RelayStats, seconds: float, room: int) -> list[TextTable]:
        return tables(before, after, seconds, room)

    def tidy(self, log: FilteringBoundLogger, before: RelayStats, after: RelayStats) -> None:
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
