"""What `fanout bench` says and draws of what was measured."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from fanout.cli.bench_output import quiet_for, troubles
from fanout.measure.result import BenchResult, PodResult, PodStatus
from fanout.model import Endpoint
from fanout.protocol.probe import Observed
from tests.support.pod_results import measured


def test_what_is_said_of_many_pods_stays_short() -> None:
    pods = [PodResult(Endpoint(f"10.0.0.{number + 1}", 12000), 1000, 200) for number in range(100)]
    pods += [measured(number, lost=5) for number in range(100)]
    said = troubles(BenchResult(tuple(pods), 1000, 200, 1.0))
    assert len(said) < 20
    assert "... and so for 92 more pods" in said


def test_where_loss_happened_is_said_as_far_as_it_is_known() -> None:
    got = Observed(900, 900, 1000, bytes=900 * 200, kernel_drops=90)
    pod = PodResult(Endpoint("10.0.0.1", 12000), 1000, 200, dropped=10, errno=105, observed=got)
    (said,) = troubles(BenchResult((pod,), 1000, 200, 1.0))
    assert "100 of 1,000 messages: 10 did not leave this host (ENOBUFS); its receive buffer was full" in said
    assert "90 drops there" in said
    assert "on the way" not in said


@given(st.tuples(*[st.integers(0, 2**64 - 1) | st.integers(0, 5)] * 10), st.integers(0, 5))
def test_whatever_a_pod_claims_can_be_shown(claims: tuple[int, ...], attempted: int) -> None:
    pod = PodResult(Endpoint("10.0.0.1", 1), attempted, 200, observed=Observed._make((*claims, "?")))
    result = BenchResult((pod,), attempted, 200, 1.0)
    json.dumps(result.as_json(), allow_nan=False)
    troubles(result)
    if pod.status is PodStatus.MEASURED:
        assert pod.loss is not None
        assert 0 <= pod.loss <= 100


def test_a_pod_that_has_gone_quiet_is_told_from_one_that_loses_nothing() -> None:
    first, second = (Endpoint(f"10.0.0.{number}", 12000) for number in (1, 2))
    pods = [
        PodResult(first, 10, 200, observed=Observed(), last_answer=4.9),
        PodResult(second, 10, 200, observed=Observed(), last_answer=1.0),
    ]
    assert quiet_for(BenchResult(tuple(pods), 10, 200, 5.0)) == {second: 4.0}
    crowd = tuple(PodResult(Endpoint("10.0.0.1", port), 10, 200, last_answer=1.0) for port in range(1, 401))
    assert quiet_for(BenchResult(crowd, 10, 200, 5.0)) == {}, "so many cannot be asked in that time"


def test_a_pod_that_answered_and_then_did_not_is_named_with_the_moment() -> None:
    pod = PodResult(Endpoint("10.0.0.1", 12000), 10, 200, round_trips=(0.1,), pings=9, last_answer=3.14)
    (sentence,) = troubles(BenchResult((pod,), 10, 200, 5.0))
    assert "answered until 3.1 s into the run" in sentence
    never = PodResult(Endpoint("10.0.0.1", 12000), 10, 200)
    (sentence,) = troubles(BenchResult((never,), 10, 200, 5.0))
    assert "NetworkPolicy" in sentence


def test_pings_without_an_answer_are_named() -> None:
    observed = Observed(received=10, unique=10, expected=10, bytes=2000)
    pods = [
        PodResult(Endpoint("10.0.0.1", port), 10, 200, observed=observed, round_trips=(0.1,) * answered, pings=100)
        for port, answered in ((1, 100), (2, 98), (3, 40))
    ]
    (sentence,) = troubles(BenchResult(tuple(pods), 10, 200, 5.0))
    assert sentence == "unanswered: 10.0.0.1:3: 60 of 100 pings, which no percentile has"
