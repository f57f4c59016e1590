"""The SSDP relay's live table."""

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
from fanout.ssdp.core.stats import DeviceStats, SsdpStats

_NAME_MAX = 30
_LOCATION_MAX = 60


def tables(
    before: SsdpStats, after: SsdpStats, seconds: float, room: int, waiting: str | None = None
) -> list[TextTable]:
    """Return one row of all that is asked and carried, and the devices; where there are too many, the busy ones."""
    known = {each.udn: each for each in before.devices}
    pairs = [
        (known.get(each.udn, DeviceStats(each.udn, each.pod, each.location)), each)
        for each in sorted(after.devices, key=lambda one: (one.name.lower(), one.udn))
    ]
    shown = chosen(pairs, room - 1, lambda pair: pair[0].requests != pair[1].requests or pair[0].bytes != pair[1].bytes)
    return [
        TextTable(
            ("STATE",),
            ("PODS", "SEARCHES/S", "ANSWERS/S", "CLIENTS", "REQUESTS/S", "RATE", "FAILED", "DROPPED"),
            [_all(before, after, seconds, waiting)],
            # Neither sentences nor reasons fit into a cell.
            "\n".join(filter(None, (_reasons(after), waiting))),
            dispensable=("CLIENTS", "REQUESTS/S", "RATE", "ANSWERS/S", "PODS"),
        ),
        TextTable(
            ("DEVICE", "POD", "LOCATION"),
            ("REQUESTS/S", "RATE", "BYTES"),
            [_device(*pair, seconds) for pair in shown],
            more(len(pairs) - len(shown), "device", "devices"),
            dispensable=("BYTES", "POD", "REQUESTS/S", "RATE"),
        ),
    ]


def _all(before: SsdpStats, after: SsdpStats, seconds: float, waiting: str | None) -> tuple[str, ...]:
    return (
        "relaying" if waiting is None else Alarm("waiting"),
        f"{after.endpoints:,}" if after.endpoints else Alarm("0"),
        per_second(before.searches, after.searches, seconds),
        per_second(before.answers, after.answers, seconds),
        f"{after.http.connections:,}",
        per_second(sum(before.http.requests.values()), sum(after.http.requests.values()), seconds),
        bits_per_second(sum(before.http.bytes.values()), sum(after.http.bytes.values()), seconds),
        alarming(sum(after.http.failures.values())),
        alarming(sum(after.dropped.values())),
    )


def _reasons(stats: SsdpStats) -> str:
    """Return why something failed or was dropped; empty where nothing was."""
    said = (("failed", drops(stats.http.failures)), ("dropped", drops(stats.dropped)))
    return "; ".join(f"{what}: {counts}" for what, counts in said if isinstance(counts, Alarm))


def _device(before: DeviceStats, after: DeviceStats, seconds: float) -> tuple[str, ...]:
    return (
        shortened(after.name.strip() or after.udn, _NAME_MAX),
        shortened(after.pod, _LOCATION_MAX),
        shortened(after.location, _LOCATION_MAX),
        per_second(before.requests, after.requests, seconds),
        bits_per_second(before.bytes, after.bytes, seconds),
        size(after.bytes),
    )
