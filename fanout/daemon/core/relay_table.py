"""The relay's live table."""

from __future__ import annotations

from fanout.daemon.core.text_table import (
    Alarm,
    TextTable,
    alarming,
    bits_per_second,
    chosen,
    drops,
    more,
    per_second,
    shortened,
    size,
)
from fanout.relay.core.stats import IngressStats, PodStats, RelayStats

_SERVICE_MAX = 40
"""Characters: a Service may be a long list of endpoints."""


def tables(before: RelayStats, after: RelayStats, seconds: float, room: int) -> list[TextTable]:
    """Return what came to each ingress, and what went to each pod; where there are too many, those with trouble."""
    ingresses = list(zip(before.ingresses, after.ingresses, strict=True))
    shown = chosen(ingresses, max(room // 2, room - len(after.pods)), lambda pair: pair[1].waiting or pair[1].dropped)
    said = more(len(ingresses) - len(shown), "ingress", "ingresses")
    why_waiting = next((each.waiting for each in after.ingresses if each.waiting is not None), "")
    pods = chosen(after.pods, room - len(shown), lambda pod: pod.refused or pod.dropped)
    known = {(pod.service, pod.host): pod for pod in before.pods}
    return [
        TextTable(
            ("INGRESS", "TO", "STATE"),
            ("DATAGRAMS/S", "RATE", "BYTES", "DROPPED"),
            [_ingress(*pair, seconds) for pair in shown],
            # The first reason for waiting: a sentence does not fit into a cell.
            "\n".join(filter(None, (said, why_waiting))),
            dispensable=("BYTES", "TO", "RATE"),
        ),
        TextTable(
            ("POD", "OF"),
            ("COPIES/S", "RATE", "BYTES", "REFUSED", "DROPPED"),
            [_pod(known.get((pod.service, pod.host), PodStats(pod.host, pod.service)), pod, seconds) for pod in pods],
            more(len(after.pods) - len(pods), "pod", "pods"),
            dispensable=("BYTES", "OF", "RATE"),
        ),
    ]


def _ingress(before: IngressStats, after: IngressStats, seconds: float) -> tuple[str, ...]:
    return (
        after.ingress,
        shortened(after.service, _SERVICE_MAX),
        "listening" if after.waiting is None else Alarm("waiting"),
        per_second(before.datagrams, after.datagrams, seconds),
        bits_per_second(before.bytes, after.bytes, seconds),
        size(after.bytes),
        drops(after.dropped),
    )


def _pod(before: PodStats, after: PodStats, seconds: float) -> tuple[str, ...]:
    return (
        after.host,
        shortened(after.service, _SERVICE_MAX),
        per_second(before.sent, after.sent, seconds),
        bits_per_second(before.bytes, after.bytes, seconds),
        size(after.bytes),
        alarming(after.refused),
        drops(after.dropped),
    )
