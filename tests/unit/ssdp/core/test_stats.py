"""What the SSDP relay counts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

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
    copied = counts.copy()
    counts.requests[28_200] += 1
    counts.connections += 1
    assert copied == HttpCounts(requests={28_200: 1}, connections=1)


def test_a_copy_can_be_passed_on_as_json() -> None:
    counts = HttpCounts(failures=Counter({HttpFailure.BUSY: 3}), statuses=Counter({2: 1}), events=4)
    as_json = json.loads(json.dumps(asdict(SsdpStats(http=counts.copy()))))
    assert as_json["http"]["failures"] == {HttpFailure.BUSY.value: 3}
    assert (as_json["http"]["statuses"], as_json["http"]["events"]) == ({"2": 1}, 4)
