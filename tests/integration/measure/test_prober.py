"""Pings and requests to peers on loopback, and which answers are believed."""

from __future__ import annotations

from contextlib import closing

from fanout.measure.prober import Prober
from tests.support.probe_peers import endpoint_of, honest, peer, wrong_run
from tests.support.waiting import until


def test_a_pod_is_asked_until_it_reports() -> None:
    with peer(honest) as answering:
        endpoint = endpoint_of(answering)
        with closing(Prober([endpoint], 7)) as prober:
            until(lambda: prober.ask([endpoint]) == [], "a report")
            pod = prober.pods[endpoint]
            assert pod.observed is not None
            assert (pod.observed.received, pod.pings, pod.round_trips) == (0, 0, [])
            assert pod.answered_at is not None


def test_pings_are_answered_until_they_are_stopped() -> None:
    with peer(honest) as answering:
        endpoint = endpoint_of(answering)
        with closing(Prober([endpoint], 7)) as prober:
            pod = prober.pods[endpoint]

            def is_answered() -> bool:
                prober.step(0.001)
                return bool(pod.round_trips)

            prober.ping_for(1.0)
            until(is_answered, "the answer to a ping")
            assert pod.round_trips == sorted(pod.round_trips)
            prober.stop_pings()
            sent = pod.pings
            prober.step(0.001)
            assert pod.pings == sent > 0


def test_answers_of_another_run_are_ignored() -> None:
    with peer(wrong_run) as lying:
        endpoint = endpoint_of(lying)
        with closing(Prober([endpoint], 7)) as prober:

            def has_ignored() -> bool:
                assert prober.ask([endpoint], (0.001,)) == [endpoint]
                return prober.ignored > 0

            until(has_ignored, "an answer that is not believed")
            assert (prober.pods[endpoint].observed, prober.stranger) == (None, None)
