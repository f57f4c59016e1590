"""The bench of the relay: what it makes of its counts, and its programs in C over loopback."""

from __future__ import annotations

import os
import socket
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks import relay, talk
from benchmarks.lab import Lab
from benchmarks.relay import EVEN, LOOP, OURS, TICKS, FlowResult, Stamps, TrafficSource
from benchmarks.talk import LONG_PATIENCE
from tests.support.needs import require
from tests.support.ports import free_port
from tests.support.waiting import until

SENT = 1_000


def run(copies: int, cost: float) -> FlowResult:
    return FlowResult(SENT, copies, round(copies * cost), 50_000_000, 0)


def test_a_run_tells_what_was_lost_and_what_a_copy_cost() -> None:
    one = run(SENT * relay.PODS - 10, 2_000)
    assert one.lost == 10
    assert one.cost == 2_000
    assert run(0, 0).cost == 0


def test_a_flow_lasts_as_long_as_asked() -> None:
    assert EVEN.count(0.5) == 10_000
    assert relay.Flow("as fast as it can", 0, 1).count(0.5) > EVEN.count(0.5)


def test_goals_are_of_the_counts() -> None:
    costs: relay.Costs = defaultdict(list)
    whole = SENT * relay.PODS
    for flow in relay._FLOWS:
        costs[flow, OURS] = [run(whole, 900), run(whole, 1_000), run(whole, 5_000)]
        costs[flow, LOOP] = [run(whole // 2, 5_000)]
    costs[TICKS, OURS].append(run(whole - 1, 1_000))
    even, ticks = relay._kept_rows(costs)
    assert (even.met, even.measured, even.against) == (True, f"0 of {3 * whole:,}", f"{LOOP}: 50.0%")
    assert (ticks.met, ticks.measured) == (False, f"1 of {4 * whole:,}")
    rows = relay._cost_rows(costs)
    assert [(row.ratio, row.met) for row in rows[:2]] == [(5.0, True), (5.0, True)]
    assert {row.goal for row in rows[2:]} == {""}
    assert len(relay._cost_table(costs).rows) == 2 * len(relay._FLOWS)


def quantiles(p99: int, datagrams: int = SENT * relay.PODS) -> dict[str, int]:
    return {"datagrams": datagrams, "misordered": 0, "p50": 1_000, "p99": p99, "most": 2 * p99, "sent": SENT}


def test_latency_is_held_against_the_other_relay_in_milliseconds() -> None:
    times = {OURS: [quantiles(500_000), quantiles(9_000_000), quantiles(400_000)], LOOP: [quantiles(200_000)]}
    row = relay._latency_row(times)
    assert row.ratio == pytest.approx(0.3)
    assert row.measured == "500 µs"
    assert relay._latency_table(times).rows[0] == [OURS, "1", "500", "9,000", "18,000"]


def test_a_pod_in_trouble_is_held_against_a_pod_that_is_well() -> None:
    troubles: relay.Troubles = defaultdict(list)
    for flow in relay._TROUBLED:
        troubles[flow.name, relay.WELL, OURS] = [quantiles(100_000)]
        troubles[flow.name, relay.STOPPED, OURS] = [quantiles(100_000)]
        troubles[flow.name, relay.GONE, OURS] = [quantiles(200_000, SENT * relay.PODS - 3)]
    rows = relay._trouble_rows(troubles)
    assert [(row.measured, row.met) for row in rows[:2]] == [("0", True), ("100 µs", True)]
    assert [(row.measured, row.met) for row in rows[-2:]] == [("3", False), ("200 µs", False)]
    assert len(relay._trouble_table(troubles).rows) == len(troubles)


@pytest.fixture
def ports() -> list[int]:
    """Return the pods' port and those of the relays, all free."""
    return [free_port() for _ in range(3)]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ports: list[int]) -> Lab:
    """Pods on loopback, and programs compiled for this test."""
    require("gcc")
    monkeypatch.setattr(talk, "_BUILT", tmp_path)
    for module in (talk, relay):
        monkeypatch.setattr(module, "PORT", ports[0])
    monkeypatch.setattr(relay, "_PORTS", {OURS: ports[1], LOOP: ports[2]})
    return Lab(loopback=True)


def test_both_relays_forward_all_of_a_flow_and_their_time_is_taken(lab: Lab) -> None:
    calm = relay.Flow("1,000/s", 1_000, 5)
    with (
        talk.Counter(lab, relay.PODS) as counter,
        TrafficSource(lab) as source,
        relay._relays(lab, relay.PODS) as relays,
    ):
        for name, helper in relays.items():
            one = relay._run(source, counter, helper, name, calm, 100, patience=LONG_PATIENCE)
            assert (one.sent, one.lost) == (100, 0)
            assert one.cpu > 0
            assert one.wall >= 95_000_000
            assert helper.ask("read")["datagrams"] == 100


def test_stamps_tell_when_copies_came_and_in_what_order(lab: Lab, ports: list[int]) -> None:
    with Stamps(lab, relay.PODS) as stamps, TrafficSource(lab) as source, relay._relays(lab, relay.PODS, urgent=True):
        for name in (OURS, LOOP):
            found = stamps.time(source, name, relay.Flow("1,000/s", 1_000, 1), 50, patience=LONG_PATIENCE)
            assert found["datagrams"] == 50 * relay.PODS
            assert 0 < found["p50"] <= found["p99"] <= found["most"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for number in (2, 1):
                out.sendto(number.to_bytes(8, sys.byteorder) + bytes(8), (lab.address(0), ports[0]))
        until(lambda: stamps.ask("count") == 2, "both have come")
        # Both are of a source that begins to count anew, and the second is before the first as well.
        assert [pod["misordered"] for pod in stamps.ask("read")[:2]] == [2, 0]


OWN_TIME = """
import sys, time
while time.process_time_ns() < 20_000_000:
    pass
for line in sys.stdin:
    print(time.process_time_ns(), flush=True)
"""


def test_the_time_of_a_process_is_read_from_outside() -> None:
    with talk.Helper([sys.executable, "-c", f"print(0, flush=True)\n{OWN_TIME}"]) as helper:
        before = helper.ask("")
        between = helper.cpu_time()
        assert 20_000_000 <= before <= between <= helper.ask("")
        assert helper.pid != os.getpid()
