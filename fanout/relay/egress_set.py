"""Every egress of a relay: aimed at the pods as they come and go, watched while full, and counted."""

from __future__ import annotations

import logging
import select
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from time import monotonic

from fanout import errno_text
from fanout.protocol.sending.batch import Segments
from fanout.relay.core.stats import PodStats
from fanout.relay.egress import Egress
from fanout.relay.port_fanout import PortFanout
from fanout.relay.self_filter import SelfFilter
from fanout.relay.service_pods import ServicePods
from fanout.relay.source import Source

log: logging.Logger = logging.getLogger("fanout")

_RETRY_FIRST, _RETRY_MOST = 1.0, 30.0


class EgressSet:
    """The egresses of all ports, for the thread that relays; others may read `pod_stats` and `left`.

    A full egress is registered with `poll`, until `flush` has sent what waits.
    """

    def __init__(
        self,
        pods: Mapping[str, ServicePods],
        sources: Sequence[Source],
        self_filter: SelfFilter,
        counting: AbstractContextManager[object],
    ) -> None:
        self._pods = pods
        self._sources = sources
        self._self_filter = self_filter
        self._counting = counting
        self.left: PodStats = PodStats("", "")
        """What went to all pods that have left."""
        self._left_out: set[str] = set()
        self._full: dict[int, Egress] = {}
        self._retry_at = 0.0
        self._retry_after = _RETRY_FIRST
        """Seconds until broken egresses are tried again: more each time, for each takes a while."""

    def follow(self, *, may_have_moved: bool) -> None:
        """Aim anew where pods joined or left, an address of this host went, or a retry is due."""
        changes = [pods.follow() for pods in self._pods.values()]
        if any(changes) or (may_have_moved and self._self_filter.has_moved()) or self._is_time_to_retry():
            self.aim()

    def aim(self) -> None:
        """Send to the pods as they are known now."""
        with self._counting:
            for source in self._sources:
                for closed in source.aim():
                    _add(self.left, closed)
        egresses = [egress for port_fanout in self._port_fanouts() for egress in port_fanout]
        self._self_filter.send_from(egress.local for egress in egresses if egress.local is not None)
        # Descriptors of closed or reopened egresses may belong to others now.
        self._full = {
            number: each for number, each in self._full.items() if each.is_blocked and each.fileno() == number
        }
        broken = {each.endpoint.host: errno_text.leaving(each.broken) for each in egresses if each.broken}
        for host in sorted(broken.keys() - self._left_out):
            log.warning(
                "pod_left_out: all copies for %(host)s are dropped: %(reason)s", {"host": host, "reason": broken[host]}
            )
        self._left_out = set(broken)

    def send(self, port_fanout: PortFanout, runs: Sequence[Segments], poll: select.epoll) -> None:
        """Send what came to one port."""
        if port_fanout.send(runs, may_wait=bool(self._full)):
            for egress in port_fanout:
                if egress.is_blocked and egress.fileno() not in self._full:
                    self._full[egress.fileno()] = egress
                    poll.register(egress.fileno(), select.EPOLLOUT)

    def flush(self, descriptor: int, poll: select.epoll) -> bool:
        """Send what waits for a socket that is writable now; return whether the descriptor is that of an egress."""
        egress = self._full.get(descriptor)
        if egress is None:
            return False
        with self._counting:
            egress.flush()
        if not egress.is_blocked:
            del self._full[descriptor]
            poll.unregister(descriptor)
        return True

    @property
    def is_full(self) -> bool:
        """Whether something waits."""
        return bool(self._full)

    @property
    def pod_stats(self) -> list[PodStats]:
        """What went to each pod; read it while `counting` is held."""
        found: dict[tuple[str, str], PodStats] = {}
        for service in self._pods:
            for port_fanout in self._port_fanouts(service):
                for egress in port_fanout:
                    host = egress.endpoint.host
                    pod = found.setdefault((service, host), PodStats(host, service))
                    _add(pod, egress)
                    if not egress.broken:
                        pod.sent += port_fanout.datagrams
                        pod.bytes += port_fanout.bytes
        return list(found.values())

    def close(self) -> None:
        """Close every egress; the counts stay."""
        with self._counting:
            for port_fanout in self._port_fanouts():
                port_fanout.close()

    def _is_time_to_retry(self) -> bool:
        now = monotonic()
        if not any(port_fanout.broken for port_fanout in self._port_fanouts()):
            self._retry_after = _RETRY_FIRST
            return False
        if now < self._retry_at:
            return False
        self._retry_at = now + self._retry_after
        self._retry_after = min(2 * self._retry_after, _RETRY_MOST)
        return True

    def _port_fanouts(self, service: str | None = None) -> list[PortFanout]:
        """Return the fan-outs of one Service, or of all."""
        return [
            port_fanout
            for source in self._sources
            if service in (None, source.ingress.service)
            for port_fanout in source.port_fanouts.values()
        ]


def _add(total: PodStats, egress: Egress) -> None:
    total.sent += egress.sent
    total.bytes += egress.bytes
    total.refused += egress.refused
    for reason, count in dict(egress.dropped).items():
        total.dropped[reason] = total.dropped.get(reason, 0) + count
