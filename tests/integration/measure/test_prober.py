"""What the prober asks, and which answers it takes. A whole `fanout bench` of such peers: the tests of the command."""

from __future__ import annotations

import pytest

from fanout.measure.prober import PINGS_MIN, Prober
from fanout.model import Endpoint, parse_literals
from tests.support.probed import Answer, garbage, honest, peer, truncated, unasked, wrong_run
from tests.support.waiting import until


def _endpoint(text: str) -> Endpoint:
    (endpoint,) = parse_literals(text, 0) or ()
    return endpoint


def test_who_answers_has_a_report_and_round_trips() -> None:
    with peer(honest) as answering:
        endpoint = _endpoint(answering)
        prober = Prober([endpoint], 7)
        try:
            until(lambda: not prober.ask([endpoint]), "the report")
            prober.ping_for(0.01)
            pod = prober.pods[endpoint]
            until(lambda: not prober.ask([endpoint]) and len(pod.round_trips) == PINGS_MIN, "the answers to all pings")
        finally:
            prober.close()
    assert pod.observed is not None
    assert (pod.observed.received, pod.pings, prober.ignored) == (0, PINGS_MIN, 0)
    assert pod.round_trips == sorted(pod.round_trips)


@pytest.mark.parametrize("lie", [wrong_run, truncated, garbage, unasked])
def test_what_answers_nothing_is_counted(lie: Answer) -> None:
    with peer(lie) as lying:
        endpoint = _endpoint(lying)
        prober = Prober([endpoint], 7)
        try:
            until(lambda: prober.ask([endpoint], (0.01,)) and prober.ignored, "a lie")
        finally:
            prober.close()
    assert prober.pods[endpoint].observed is None
    assert prober.stranger is None


def test_a_stranger_is_named() -> None:
    with peer(honest, replies_from="127.0.0.99") as asked:
        endpoint = _endpoint(asked)
        prober = Prober([endpoint], 7)
        try:
            until(lambda: prober.ask([endpoint], (0.01,)) and prober.stranger, "a stranger")
        finally:
            prober.close()
    assert prober.stranger is not None
    assert prober.stranger.host == "127.0.0.99"
