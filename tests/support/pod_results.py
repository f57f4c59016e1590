"""A pod as `fanout bench` may have measured it."""

from __future__ import annotations

from fanout.measure.result import PodResult
from fanout.model import Endpoint
from fanout.protocol.probe import Observed


def measured(number: int, lost: int = 0) -> PodResult:
    got = 1000 - lost
    return PodResult(
        Endpoint(f"10.128.{number // 250}.{number % 250 + 1}", 12000),
        1000,
        200,
        observed=Observed(got, got, 1000, bytes=got * 200, nanoseconds=10**9, version="0.1.0"),
        round_trips=tuple(0.001 * (1 + number % 7) * (1 + step / 50) for step in range(50)),
        pings=50,
    )
