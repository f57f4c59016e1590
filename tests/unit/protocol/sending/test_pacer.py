"""The pacer on a scripted clock: every schedule of sleeps and hiccups can be tried."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fanout.errors import InvalidInput
from fanout.protocol.sending.pacer import BURST, Pacer

SMALL = 100
CATCH_UP = 0.1
"""Seconds of lateness that are made up for."""
TICK = 0.001
"""Seconds: messages that are due within it leave together."""


class Sent(NamedTuple):
    """When messages left, what was promised to be lost by then, and when the run ended."""

    left: list[float]
    lost: float
    """Seconds: by so much lateness exceeded what is made up for."""
    seconds: float


def run(pacer: Pacer, size: int, hiccups: list[float], calm: float = CATCH_UP) -> Sent:
    """Send as a sender would, whose sleeps take longer by `hiccups`, one a sleep, and are exact for `calm` seconds."""
    now, left, ends = 0.0, [], calm
    late = lost = 0.0
    following = iter(hiccups)
    while True:
        if pacer.admit(now, size):
            left.append(now)
            continue
        seconds, hiccup = pacer.wait(now, size), next(following, None)
        if hiccup is None and now >= ends:
            return Sent(left, lost, now)
        now += seconds + (hiccup or 0.0)
        # Twice the speed makes up for a second in each.
        late = max(0.0, late - seconds) + (hiccup or 0.0)
        lost += max(0.0, late - (CATCH_UP - TICK))
        late = min(late, CATCH_UP - TICK)
        if hiccup is not None:
            ends = now + calm


HICCUPS = st.floats(0, 0.5).flatmap(lambda most: st.lists(st.just(0.0) | st.floats(0, most), max_size=50))


@given(
    rate=st.floats(10, 5_000),
    size=st.integers(0, 9_000),
    burst=st.integers(2, 300),
    hiccups=HICCUPS,
)
@example(rate=500_000, size=SMALL, burst=BURST, hiccups=[0.00007] * 100)
@example(rate=183_502, size=SMALL, burst=BURST, hiccups=[0.0078] * 16)
@example(rate=30_000, size=SMALL, burst=BURST, hiccups=[0.01] * 50)
@example(rate=10, size=SMALL, burst=BURST, hiccups=[0.01] * 10)
@example(rate=1_000, size=SMALL, burst=BURST, hiccups=[0.09, *[0.0] * 100] * 5)
@example(rate=1_000, size=SMALL, burst=BURST, hiccups=[0.09] * 5)
def test_what_is_late_by_a_tenth_of_a_second_is_made_up_for_and_of_more_only_the_rest_is_lost(
    rate: float, size: int, burst: int, hiccups: list[float]
) -> None:
    """However late the clock is, and as long as it is late: once it is exact for a tenth of a second."""
    sent = run(Pacer(0.0, rate=rate, bandwidth=None, burst=burst), size, hiccups)
    assert len(sent.left) >= rate * (sent.seconds - sent.lost - TICK) - 1


@given(
    rate=st.floats(10, 5_000),
    size=st.integers(0, 9_000),
    burst=st.integers(1, 300),
    hiccups=HICCUPS,
)
def test_no_message_leaves_before_its_time(rate: float, size: int, burst: int, hiccups: list[float]) -> None:
    left = run(Pacer(0.0, rate=rate, bandwidth=None, burst=burst), size, hiccups, calm=0.0).left
    assert all(moment * rate >= number - 1e-5 for number, moment in enumerate(left))


@given(
    rate=st.floats(1, 1_000),
    size=st.integers(0, 65_507),
    burst=st.integers(1, 1000),
    hiccups=st.lists(st.floats(0, 2), max_size=20),
)
@example(rate=1_000, size=0, burst=1000, hiccups=[2.0] * 3)
def test_a_burst_is_never_larger_than_a_receive_buffer_holds(
    rate: float, size: int, burst: int, hiccups: list[float]
) -> None:
    left = run(Pacer(0.0, rate=rate, bandwidth=None, burst=burst), size, hiccups).left
    weight = 1 + size / 600
    assert max(Counter(left).values()) * weight <= max(burst, weight) + 1e-6
    # Between any two messages, what left has at most a bucket's weight more than what twice the speed lets pass.
    least = float("inf")
    for number, moment in enumerate(left):
        ahead = (number - 2 * rate * moment) * weight
        least = min(least, ahead)
        assert ahead - least <= burst + 1e-6


def test_what_is_late_is_made_up_for_as_far_as_a_tenth_of_a_second() -> None:
    pacer = Pacer(0.0, rate=100, bandwidth=None)
    assert pacer.admit(0.0, SMALL)
    assert not pacer.admit(0.0, SMALL)
    assert [pacer.admit(60.0, SMALL) for _ in range(20)].count(True) == 11


@given(
    sizes=st.lists(st.sampled_from([0, 1, 100, 1200, 8000, 60_000]), min_size=1, max_size=300),
    pace=st.sampled_from([{"rate": 1e5, "bandwidth": None}, {"rate": None, "bandwidth": 1e8}]),
)
def test_a_small_message_opens_the_gate_for_no_large_one(sizes: list[int], pace: dict[str, float | None]) -> None:
    pacer = Pacer(0.0, rate=pace["rate"], bandwidth=pace["bandwidth"])
    admitted = [size for size in sizes if pacer.admit(1.0, size)]
    largest = 1 + max(sizes) / 600
    assert sum(1 + size / 600 for size in admitted) <= max(BURST, largest) + largest


def test_with_a_burst_of_one_messages_keep_their_distance() -> None:
    pacer = Pacer(0.0, rate=100, bandwidth=None, burst=1)
    assert pacer.admit(0.0, SMALL)
    assert pacer.admit(60.0, SMALL)
    assert not pacer.admit(60.0, SMALL)
    assert 0.0099 < pacer.wait(60.0, SMALL) < 0.0101


@given(bandwidth=st.floats(1e4, 1e9), size=st.integers(1, 1200))
def test_bandwidth_counts_bits_of_payload(bandwidth: float, size: int) -> None:
    seconds = min(1.0, 500 * 8 * size / bandwidth)
    sent = run(Pacer(0.0, rate=None, bandwidth=bandwidth), size, [], calm=seconds)
    bits = 8 * size * len(sent.left)
    assert bandwidth * (sent.seconds - TICK) - 8 * size <= bits <= bandwidth * sent.seconds + 8.01 * size


def test_the_slower_of_the_two_counts() -> None:
    for rate, bandwidth in ((100, 1e9), (1e6, 100 * 8 * SMALL)):
        assert len(run(Pacer(0.0, rate=rate, bandwidth=bandwidth), SMALL, [], calm=0.995).left) == 101


def test_who_is_late_by_the_slack_loses_no_pace() -> None:
    for size in (0, 600, 1200):
        pacer = Pacer(0.0, rate=1e4, bandwidth=None)
        while pacer.admit(0.0, size):
            pass
        slack = pacer.slack(size)
        assert slack == pytest.approx(256 / (1 + size / 600) / 1e4)
        left = 0
        while pacer.admit(slack, size):
            left += 1
        assert left == pytest.approx(slack * 1e4, abs=1)


def test_nonsense_is_refused() -> None:
    for figure in (0.0, -1.0, float("nan"), float("inf"), True, "10", 3j):
        with pytest.raises(InvalidInput):
            Pacer(0.0, rate=figure, bandwidth=None)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            Pacer(0.0, rate=None, bandwidth=figure)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        Pacer(0.0, rate=1.0, bandwidth=None, burst=0)
    with pytest.raises(InvalidInput, match="bandwidth must be at least one datagram of 200 bytes"):
        Pacer(0.0, rate=None, bandwidth=1599).admit(0.0, 200)
    pacer = Pacer(0.0, rate=None, bandwidth=8000)
    assert pacer.admit(0.0, 1)
    with pytest.raises(InvalidInput, match="bandwidth must be at least one datagram of 2,000 bytes"):
        pacer.admit(0.0, 2000)
    assert Pacer(0.0, rate=None, bandwidth=1600).admit(0.0, 200)
    assert BURST == 256
