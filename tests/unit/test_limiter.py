from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.limiter import LimitedLogger, LineLimiter


@given(st.integers(1, 100), st.lists(st.floats(0, 0.5), max_size=300))
def test_every_line_is_written_or_counted_and_no_second_has_more_than_twice_the_rate(
    per_second: int, gaps: list[float]
) -> None:
    limiter = LineLimiter(per_second)
    now = 0.0
    written: list[float] = []
    for gap in gaps:
        now += gap
        if limiter.allow(now):
            written.append(now)
    assert len(written) + limiter.take_suppressed() == len(gaps)
    assert limiter.take_suppressed() == 0
    for start in written:
        assert len([moment for moment in written if start <= moment < start + 1]) <= 2 * per_second + 1


def test_a_slow_flow_is_written_whole() -> None:
    limiter = LineLimiter(10)
    assert all(limiter.allow(number * 0.1001) for number in range(1000))


def test_no_limit() -> None:
    limiter = LineLimiter(0)
    assert all(limiter.allow(0) for _ in range(1000))
    assert limiter.take_suppressed() == 0


def test_a_limited_logger_tells_how_many_lines_it_left_out() -> None:
    said: list[str] = []
    warn = LimitedLogger(lambda message, values, **options: said.append(message % values), 2)
    for second in (0.0, 0.1, 0.2, 0.3, 5.0):
        warn(second, "refused: %(why)s", {"why": "full"})
    assert said == [
        "refused: full (0 such lines left out before)",
        "refused: full (0 such lines left out before)",
        "refused: full (2 such lines left out before)",
    ]
