"""A run: how long its stream is, and what is known where it did not begin."""

from __future__ import annotations

import time
from itertools import count

import pytest

from fanout.measure.result import PodStatus
from fanout.measure.session import Bench, Plan
from fanout.model import Endpoint, Service
from fanout.protocol import probe


def test_the_stream_ends_when_its_seconds_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks) / 1000)
    made = Bench(Service("127.0.0.1"), (), Plan(1000, 200, 0.5))
    # It looks at the clock before each message, and notes when it has left.
    assert len(list(made._payloads())) == 250
    made.close()


def test_a_stream_of_so_many_messages_numbers_them() -> None:
    made = Bench(Service("127.0.0.1"), (), Plan(1000, 200, 0.003, 3))
    payloads = list(made._payloads())
    made.close()
    assert [len(payload) for payload in payloads] == [200] * 3
    frames = [probe.parse(payload) for payload in payloads]
    assert [frame and (frame.kind, frame.number) for frame in frames] == [
        (probe.ProbeKind.DATA, number) for number in range(3)
    ]
    assert made.sent == 3


def test_the_second_interrupt_is_for_the_command() -> None:
    made = Bench(Service("127.0.0.1"), (Endpoint("127.0.0.1", 9),), Plan(1000, 200, 3600))
    made.interrupt()
    with pytest.raises(KeyboardInterrupt):
        made.interrupt()
    made.close()
    result = made.result()
    assert result.interrupted
    assert [pod.status for pod in result.pods] == [PodStatus.SILENT]
