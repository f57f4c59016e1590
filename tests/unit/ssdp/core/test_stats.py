"""What the SSDP relay counts."""

from __future__ import annotations

from copy import deepcopy

from fanout.ssdp.core.drop_reasons import HttpFailure, SsdpDrop
from fanout.ssdp.core.stats import HttpCounts, SsdpStats


def test_counts_begin_at_zero_and_are_not_shared() -> None:
    one, other = HttpCounts(), HttpCounts()
    one.failures[HttpFailure.BUSY] += 1
    one.requests[28_200] += 2
    assert (one.failures, one.requests) == ({HttpFailure.BUSY: 1}, {28_200: 2})
    assert other == HttpCounts()
    stats = SsdpStats()
    stats.dropped[SsdpDrop.MALFORMED] += 1
    assert SsdpStats().dropped == {}


def test_a_copy_does_not_change_with_what_is_counted_later() -> None:
    counts = HttpCounts(requests={28_200: 1}, connections=1)
    copied = deepcopy(counts)
    counts.requests[28_200] += 1
    counts.connections += 1
    assert copied == HttpCounts(requests={28_200: 1}, connections=1)
