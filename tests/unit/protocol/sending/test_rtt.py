"""How long to wait for an answer before asking again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol.sending.rtt import FIRST, LEAST, MOST, RttEstimator


@given(st.lists(st.floats(0, 100), max_size=50), st.integers(0, 1000), st.floats(0, 1))
def test_patience_is_bounded(measured: list[float], unanswered: int, jitter: float) -> None:
    round_trip = RttEstimator(lambda: jitter)
    for seconds in measured:
        round_trip.measured(seconds)
    assert LEAST <= round_trip.patience(unanswered) <= MOST * 1.25


def test_patience_doubles_with_each_try_and_follows_what_was_measured() -> None:
    jitter = 0.0
    round_trip = RttEstimator(lambda: jitter)
    assert [round_trip.patience(tries) for tries in range(4)] == [FIRST, 2 * FIRST, 4 * FIRST, MOST]
    round_trip.measured(0.04)
    assert round_trip.patience(0) == 0.04 + 4 * 0.02, "RFC 6298, 2.2"
    for _ in range(200):
        round_trip.measured(0.001)
    assert round_trip.patience(0) == LEAST
    jitter = 1.0
    assert round_trip.patience(0) == LEAST * 1.25
