"""The pacer on a scripted clock: every schedule of sleeps and hiccups can be tried."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fanout.errors import InvalidInput
from fanout.pacing import BURST, Pacer

SMALL = 100


def run(pacer: Pacer, seconds: float, size: int, hiccups: list[float]) -> list[float]:
    """Send as a sender would, whose sleeps take longer by `hiccups`, one a sleep; return when messages left."""
    now, left = 0.0, []
    late = iter(hiccups)
    while now < seconds:
        if pacer.admit(now, size):
            left.append(now)
        else:
            now += pacer.wait(now, size) + next(late, 0.0)
    return left


@settings(deadline=None, max_examples=30)
@given(
    rate=st.floats(10, 500_000),
    hiccups=st.lists(st.floats(0, 0.01), max_size=50),
)
@example(rate=500_000, hiccups=[0.00007] * 20_000)
@example(rate=10.0, hiccups=[0.01] * 10)
def test_the_rate_is_kept_within_a_percent_however_late_the_clock_is(rate: float, hiccups: list[float]) -> None:
    seconds = 1.0 + sum(hiccups) * 2 if rate > 1000 else 12.0
    left = run(Pacer(0.0, rate=rate, bandwidth=None), seconds, SMALL, hiccups)
    assert abs(len(left) - rate * seconds) <= max(0.01 * rate * seconds, 1.01)


@settings(deadline=None, max_examples=50)
@given(
    rate=st.floats(1, 5_000),
    size=st.integers(0, 65_507),
    burst=st.integers(1, 1000),
    pauses=st.lists(st.floats(0, 2), max_size=20),
)
def test_a_burst_is_never_larger_than_a_receive_buffer_holds(
    rate: float, size: int, burst: int, pauses: list[float]
) -> None:
    left = run(Pacer(0.0, rate=rate, bandwidth=None, burst=burst), 3.0, size, pauses)
    weight = 1 + size / 600
    at_once: dict[float, int] = {}
    for moment in left:
        at_once[moment] = at_once.get(moment, 0) + 1
    assert max(at_once.values()) * weight <= max(burst, weight) + 1e-6
    for first, start in enumerate(left):
        for last in range(first, min(first + 50, len(left))):
            allowed = burst + 2 * rate * (left[last] - start) * weight
            assert (last - first + 1) * weight <= allowed + weight + 1e-6


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
@settings(deadline=None, max_examples=30)
def test_bandwidth_counts_bits_of_payload(bandwidth: float, size: int) -> None:
    seconds = min(2.0, 200_000 * size / bandwidth)
    left = run(Pacer(0.0, rate=None, bandwidth=bandwidth), seconds, size, [])
    assert abs(len(left) * 8 * size - bandwidth * seconds) <= max(0.01 * bandwidth * seconds, 8.1 * size)


def test_the_slower_of_the_two_counts() -> None:
    for rate, bandwidth in ((100, 1e9), (1e6, 100 * 8 * SMALL)):
        assert 100 <= len(run(Pacer(0.0, rate=rate, bandwidth=bandwidth), 1.0, SMALL, [])) <= 101


def test_nonsense_is_refused() -> None:
    for figure in (0.0, -1.0, float("nan"), float("inf"), True, "10", 3j):
        with pytest.raises(InvalidInput):
            Pacer(0.0, rate=figure, bandwidth=None)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            Pacer(0.0, rate=None, bandwidth=figure)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        Pacer(0.0, rate=1.0, bandwidth=None, burst=0)
    with pytest.raises(InvalidInput, match="less than one datagram of 200 bytes"):
        Pacer(0.0, rate=None, bandwidth=1599).admit(0.0, 200)
    pacer = Pacer(0.0, rate=None, bandwidth=8000)
    assert pacer.admit(0.0, 1)
    with pytest.raises(InvalidInput, match="less than one datagram of 2,000 bytes"):
        pacer.admit(0.0, 2000)
    assert Pacer(0.0, rate=None, bandwidth=1600).admit(0.0, 200)
    assert BURST == 256
