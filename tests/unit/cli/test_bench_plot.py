"""The picture of `fanout bench --plot`."""

from __future__ import annotations

import pytest

from fanout.cli.bench_plot import draw
from fanout.measure.result import BenchResult, PodResult
from fanout.model import Endpoint
from tests.support.pod_results import measured
from tests.support.svg import assert_is_picture


@pytest.mark.parametrize("count", [1, 2, 12, 13, 200])
def test_a_plot_of_any_number_of_pods(count: int) -> None:
    pods = [measured(number, lost=number % 3) for number in range(count)]
    pods[-1] = PodResult(Endpoint("10.9.9.9", 12000), 1000, 200)
    assert_is_picture(draw(BenchResult(tuple(pods), 1000, 200, 1.0), "a<b>&'c\"").decode())
