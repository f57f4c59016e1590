"""The relay's live table. Pure."""

from __future__ import annotations

from fanout.app.rates import Alarm, Table, bits_per_second, drops, more, per_second, size, troubled_first
from fanout.relay.stats import IngressStats, PodStats, RelayStats


def tables(before: RelayStats, after: RelayStats, seconds: float, room: int) -> list[Table]:
    """Return what came to each ingress, and what went to each pod; where there are too many, those with trouble."""
    ingresses = [_ingress(*pair, seconds) for pair in zip(before.ingresses, after.ingresses, strict=True)]
    known = {(pod.service, pod.host): pod for pod in before.pods}
    pods = [
        _pod(known.get((pod.service, pod.host), PodStats(pod.host, pod.service)), pod, seconds) for pod in after.pods
    ]
    of_ingresses = troubled_first(ingresses, max(room // 2, room - len(pods)))
    of_pods = troubled_first(pods, room - len(of_ingresses))
    return [
        Table(
            ("INGRESS", "TO", "STATE"),
            ("DATAGRAMS/S", "RATE", "BYTES", "DROPPED"),
            of_ingresses,
            "\n".join(filter(None, (more(ingresses, of_ingresses, "ingress", "ingresses"), _why_waiting(after)))),
            dispensable=("BYTES", "TO", "RATE"),
        ),
        Table(
            ("POD", "OF"),
            ("COPIES/S", "RATE", "BYTES", "REFUSED", "DROPPED"),
            of_pods,
            more(pods, of_pods, "pod", "pods"),
            dispensable=("BYTES", "OF", "RATE"),
        ),
    ]


def _ingress(before: IngressStats, after: IngressStats, seconds: float) -> tuple[str, ...]:
    return (
        after.ingress,
        after.service,
        "listening" if after.waiting is None else Alarm("waiting"),
        per_second(before.datagrams, after.datagrams, seconds),
        bits_per_second(before.bytes, after.bytes, seconds),
        size(after.bytes),
        drops(after.dropped),
    )


def _why_waiting(stats: RelayStats) -> str:
    """Return why the first of those that wait does so: its sentence has no room in a cell."""
    return next((each.waiting for each in stats.ingresses if each.waiting is not None), "")


def _pod(before: PodStats, after: PodStats, seconds: float) -> tuple[str, ...]:
    return (
        after.host,
        after.service,
        per_second(before.sent, after.sent, seconds),
        bits_per_second(before.bytes, after.bytes, seconds),
        size(after.bytes),
        Alarm(f"{after.refused:,}") if after.refused else "0",
        drops(after.dropped),
    )
