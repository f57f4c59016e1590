"""A run of `fanout bench` to one pod on loopback."""

from __future__ import annotations

from contextlib import closing

from fanout.measure.result import PodStatus
from fanout.measure.session import Bench, planned
from fanout.model import Service
from tests.support.probe_peers import endpoint_of, honest, patiently, peer


def test_a_run_counts_what_the_pod_received() -> None:
    with peer(honest) as answering, patiently(messages=50):
        bench = Bench(Service("127.0.0.31"), (endpoint_of(answering),), planned(1000.0, 200, 1.0, 50))
        with closing(bench):
            assert bench.greet() == 1
            before = bench.result()
            assert (before.messages, before.pods[0].attempted) == (0, 0)
            result = bench.run()
    (pod,) = result.pods
    assert (result.messages, bench.sent, result.interrupted, result.ignored) == (50, 50, False, 0)
    assert (pod.status, pod.attempted, pod.seen.unique, pod.loss) == (PodStatus.MEASURED, 50, 50, 0.0)
