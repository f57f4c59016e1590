"""`fanout bench` of peers that lose, double and invent what real receivers do not; and how a run ends."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest

from fanout.measure.prober import Prober
from fanout.measure.session import Bench
from fanout.protocol import probe
from fanout.protocol.probe import Observed, ProbeKind
from fanout.protocol.probe_log import ProbeLog
from tests.support.pods import Pod, literals
from tests.support.probe_peers import (
    Answer,
    bench,
    by_endpoint,
    garbage,
    has_ignored,
    honest,
    only,
    peer,
    truncated,
    unasked,
    wrong_run,
)


def test_where_nobody_answers_nothing_is_sent(pods: Callable[..., list[Pod]]) -> None:
    made = pods(2)
    silent = literals(made).split(",")
    run = bench(literals(made), silent=silent)
    assert run.code == 4
    assert run.err == "fanout: no pod answers, so nothing was sent\n"
    assert "sent nothing to 2 endpoints" in run.out
    for pod in made:
        frames = [probe.parse(payload) for payload in pod.waiting(1)]
        assert {frame and frame.kind for frame in frames} == {ProbeKind.REQUEST}
        assert len(frames) <= 10
    measured = bench(literals(made), "-o", "json", silent=silent).json
    assert (measured["messages"], measured["totals"]["silent"]) == (0, 2)


def test_loss_order_and_duplicates_are_told_exactly() -> None:
    held: list[bytes] = []

    def unreliable(datagram: bytes, log: ProbeLog) -> list[bytes]:
        """Lose each tenth, double each hundredth, and hold each fiftieth back for one message."""
        frame = probe.parse(datagram)
        assert frame is not None
        if frame.kind is not ProbeKind.DATA:
            return honest(datagram, log)
        if frame.number % 10 == 3:
            return []
        if frame.number % 50 == 7:
            held.append(datagram)
            return []
        arrived = [datagram, *held] + [datagram] * (frame.number % 100 == 0)
        held.clear()
        for each in arrived:
            honest(each, log)
        return []

    stream = ("--rate", "2000", "--count", "200")
    with peer(unreliable) as endpoint:
        run = bench(endpoint, *stream, "-o", "json", messages=182)
        assert run.code == 0, "measured, and no --max-loss was given"
        pod = only(run.json)
        assert (pod["lost"], pod["loss"], pod["reordered"], pod["duplicates"]) == (20, 10.0, 4, 2)
        assert (pod["received"], pod["unique"], pod["version"]) == (182, 180, "9.9.9")
        run = bench(endpoint, *stream, "--max-loss", "9.9", messages=182)
        assert run.code == 4
        assert f"{endpoint} lost 10 %, more than --max-loss 9.9" in run.err
        assert f"lost: {endpoint}: 20 of 200 messages: they were lost on the way: neither host dropped them" in run.out
        assert bench(endpoint, *stream, "--max-loss", "10", messages=182).code == 0


@pytest.mark.parametrize("lie", [wrong_run, truncated, garbage, unasked])
def test_a_reply_that_is_none_counts_as_silence(lie: Answer) -> None:
    with peer(honest, "127.0.0.32") as good, peer(lie) as endpoint:
        run = bench(f"{good},{endpoint}", "--count", "50", "-o", "json", silent=(endpoint,), heard=has_ignored)
        told = by_endpoint(run.json)
        assert (told[good]["status"], told[endpoint]["status"]) == ("measured", "silent")
        assert (run.code, run.json["ignored_replies"] > 0) == (4, True)
        alone = bench(endpoint, "--count", "50", "-o", "json", silent=(endpoint,))
    assert (alone.code, only(alone.json)["status"]) == (4, "silent")


@pytest.mark.parametrize(
    "claims",
    [
        Observed._make((*[2**64 - 1] * 10, "x")),
        Observed(121, 121, 121, bytes=121 * 200),
        Observed(120, 120, 119, bytes=120 * 200),
        Observed(120, 119, 120, bytes=120 * 200),
        Observed(120, 120, 120, reordered=120, bytes=120 * 200),
        Observed(120, 120, 120, bytes=120 * 200, nanoseconds=1),
        Observed(120, 120, 120, bytes=1),
    ],
)
def test_a_report_of_what_cannot_be_is_flagged_and_not_believed(claims: Observed) -> None:
    def lie(datagram: bytes, log: ProbeLog) -> list[bytes]:
        frame = probe.parse(datagram)
        if frame is not None and frame.kind is ProbeKind.REQUEST:
            return [probe.report(frame.run, frame.number, claims)]
        return honest(datagram, log)

    with peer(honest, "127.0.0.32") as good, peer(lie) as endpoint:
        stream = ("--rate", "4000", "--count", "120", "-o", "json")
        run = bench(f"{good},{endpoint}", *stream)
    assert run.code == 4
    told = by_endpoint(run.json)
    assert (told[good]["status"], told[endpoint]["status"]) == ("measured", "implausible")
    assert told[endpoint]["loss"] is None
    assert run.json["totals"]["received"] == 120


def test_replies_of_strangers_are_counted_and_one_is_named() -> None:
    with peer(honest, "127.0.0.32") as good, peer(honest, replies_from="127.0.0.99") as endpoint:
        run = bench(f"{good},{endpoint}", "--count", "50", silent=(endpoint,), heard=has_ignored)
    assert run.code == 4
    assert re.search(r"\d+ datagrams? came that answered nothing, one of them from 127\.0\.0\.99:\d+", run.out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_tells_what_was_measured(number: signal.Signals) -> None:
    def interrupting(datagram: bytes, log: ProbeLog) -> list[bytes]:
        frame = probe.parse(datagram)
        if frame is not None and frame.kind is ProbeKind.DATA and frame.number == 5:
            os.kill(os.getpid(), number)
        return honest(datagram, log)

    sent = 0

    def note(bench: Bench) -> bool:
        nonlocal sent
        sent = bench.sent
        return True

    def is_whole(prober: Prober) -> bool:
        (pod,) = prober.pods.values()
        return pod.observed is not None and pod.observed.received >= sent

    stream = ("--rate", "20", "--seconds", "3600", "-o", "json")
    with peer(interrupting) as endpoint:
        run = bench(endpoint, *stream, going_on=note, heard=is_whole)
    assert (run.code, run.err) == (130, "")
    assert run.json["interrupted"] is True
    assert 5 < run.json["messages"] < 20 * 3600
    assert (only(run.json)["status"], only(run.json)["loss"]) == ("measured", 0)
