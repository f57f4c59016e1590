"""`python -m benchmarks.calls`: what it counts is the same each time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks import calls, structure
from benchmarks.calls import CallCounts, CallLog
from benchmarks.scenarios import SCENARIOS
from tests.support.waiting import give_turns

WAYS = list(SCENARIOS)


def test_each_scenario_is_counted_and_two_measurements_agree() -> None:
    first, second = calls.measure(), calls.measure()
    assert first == second
    assert [each.scenario for each in first] == WAYS
    for each in first:
        assert each.calls > each.switches >= each.files - 1 > 0
    rows = calls.show(first, structure.measure()).splitlines()[3 : 3 + len(WAYS)]
    assert [row.split("  ")[0] for row in rows] == WAYS
    assert [int(row.split()[-3]) for row in rows] == [each.calls for each in first]


def test_both_ends_of_a_confirmed_message_are_followed_in_order() -> None:
    (run,) = calls.trace(SCENARIOS["confirmed message"], 1)
    assert run[0][1] == "Sender.send"
    ends = [file.partition("/")[0] for file, _ in run if file.startswith(("sender/", "receiver/"))]
    turns = [end for end, before in zip(ends, ["", *ends], strict=False) if end != before]
    assert turns == ["sender", "receiver", "sender"]


def test_what_goes_on_is_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_PACKAGE", __file__)
    log = CallLog()
    begun = generator()
    next(begun)

    async def coroutine() -> None:
        await give_turns()

    def plain() -> None:
        """Is called."""

    with asyncio.Runner() as runner, log.noted():
        plain()
        next(begun)
        assert list(generator()) == [1, 2]
        runner.run(coroutine())
    assert [name.rpartition(".")[2] for _, name in log.calls] == ["plain", "generator", "coroutine"]


def generator() -> Iterator[int]:
    yield 1
    yield 2


def test_counts() -> None:
    run = [("a.py", "f"), ("b.py", "g"), ("b.py", "g"), ("a.py", "f")]
    assert calls.counts("some", run) == CallCounts("some", 4, 2, 2)
