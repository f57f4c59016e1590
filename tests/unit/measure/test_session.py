"""What a run of `fanout bench` is to send, and how it ends, without a pod."""

from __future__ import annotations

import time
from itertools import count

import pytest

from fanout.measure.result import PodStatus
from fanout.measure.session import Bench, Plan, planned, silent
from fanout.model import Endpoint, Service


def test_the_duration_follows_from_the_count_where_one_is_given() -> None:
    assert planned(100.0, 200, 5.0, None) == Plan(100.0, 200, 5.0)
    assert planned(100.0, 200, 5.0, 50) == Plan(100.0, 200, 0.5, 50)
    assert planned(1e6, 200, 5.0, 1).seconds == 0.001


def test_a_run_that_was_not_started_has_measured_nothing() -> None:
    pods = (Endpoint("10.0.0.7", 12000), Endpoint("10.0.0.8", 12000))
    result = silent(pods, 200)
    assert [pod.endpoint for pod in result.having(PodStatus.SILENT)] == list(pods)
    assert (result.messages, result.lost, result.loss, result.worst) == (0, 0, None, None)


def test_the_second_interrupt_does_not_wait_for_the_result() -> None:
    made = Bench(Service("127.0.0.1"), (), Plan(1000, 200, 0.5))
    made.interrupt()
    assert made.interrupted
    with pytest.raises(KeyboardInterrupt):
        made.interrupt()
    made.close()


def test_the_stream_ends_when_its_seconds_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks) / 1000)
    made = Bench(Service("127.0.0.1"), (), Plan(1000, 200, 0.5))
    # It looks at the clock before each message, and notes when it has left.
    assert len(list(made._payloads())) == 250
    made.close()
