"""What the measurements of `fanout bench` add up to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.measure.result import PodResult, is_plausible
from fanout.model import Endpoint
from fanout.protocol.probe import Observed
from tests.support.pod_results import measured


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300), st.floats(0.01, 1))
def test_percentiles_are_by_nearest_rank(seconds: list[float], fraction: float) -> None:
    pod = PodResult(Endpoint("10.0.0.1", 1), 1, 200, round_trips=tuple(sorted(seconds)))
    value = pod.round_trip(fraction)
    assert value in seconds
    assert sum(each <= value for each in seconds) >= fraction * len(seconds) - 1e-9
    assert sum(each < value for each in seconds) < fraction * len(seconds) + 1e-9


def test_the_rate_is_that_between_the_first_and_the_last() -> None:
    assert measured(0).rate == 999.0
    assert PodResult(Endpoint("10.0.0.1", 12000), 10, 200).rate is None


def test_a_report_of_one_batch_is_plausible() -> None:
    assert is_plausible(Observed(received=50, unique=50, expected=50, bytes=10_000), 50, 200)
