"""Seals that threads share: no counter is used twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.support.sealed_frames import (
    NOW,
    message,
    parsed,
    seal_one,
    sealer,
)


def test_counters_are_never_used_twice_whichever_thread_seals() -> None:
    made = sealer(counter=5)
    with ThreadPoolExecutor(4) as threads:
        runs = threads.map(
            lambda _: [seal_one(made, message(), NOW), *made.seal_many([message()] * 50, NOW)], range(40)
        )
        counters = [parsed(datagram).counter for run in runs for datagram in run]
    assert sorted(counters) == list(range(5, 5 + 40 * 51))
