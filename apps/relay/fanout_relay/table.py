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
            more(ingresses, of_ingresses, "ingress", "ingresses"),
        ),
        Table(
            ("POD", "OF"),
            ("COPIES/S", "RATE", "BYTES", "REFUSED", "DROPPED"),
            of_pods,
            more(pods, of_pods, "pod", "pods"),
        ),
    ]


def _ingress(before: IngressStats, after: IngressStats, seconds: float) -> tuple[str, ...]:
    return (
        after.ingress,
        after.service,
        "listening" if after.waiting is None else Alarm(after.waiting),
        per_second(before.datagrams, after.datagrams, seconds),
        bits_per_second(before.bytes, after.bytes, seconds),
        size(after.bytes),
        drops(after.dropped),
    )


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
