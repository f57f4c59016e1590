from __future__ import annotations

import errno

from hypothesis import given
from hypothesis import strategies as st

from fanout.model import Endpoint
from fanout.report import DropReason, Fault, Outcome, Report, Status, Tally

A, B, C = (Endpoint(f"10.0.0.{number}", 12000) for number in (1, 2, 3))


def test_a_report_has_one_outcome_a_pod() -> None:
    tally = Tally()
    first, second = (A, B), (B, C)
    tally.attempted(first, 5)
    tally.attempted(first, 5)
    tally.attempted(second, 7)
    tally.dropped([Fault(B, errno.EPERM), Fault(B, errno.EPERM)])
    tally.refused([Fault(C, errno.ECONNREFUSED)])
    report = Report.of(tally, age=1.5, stale=True)
    assert report.messages == 3
    assert report.size == 17
    assert report.endpoints == (A, B, C)
    assert report.outcomes == (
        Outcome(A, sent=2),
        Outcome(B, sent=1, dropped=2, errno=errno.EPERM),
        Outcome(C, sent=1, refused=1, errno=errno.ECONNREFUSED),
    )
    assert [outcome.status for outcome in report.outcomes] == [Status.SENT, Status.DROPPED, Status.REFUSED]
    assert [outcome.reason for outcome in report.outcomes] == [None, DropReason.NOT_PERMITTED, None]
    assert not report.complete
    assert repr(report) == "<Report of 3 message(s): 1 sent, 1 refused, 1 dropped; age 1.5 s, stale>"


@given(st.lists(st.tuples(st.dictionaries(st.sampled_from([A, B, C]), st.booleans()), st.integers(0, 100))))
def test_every_attempt_is_sent_or_dropped(messages: list[tuple[dict[Endpoint, bool], int]]) -> None:
    """Of each message's endpoints, some drop it."""
    tally = Tally()
    attempts = drops = 0
    for endpoints, size in messages:
        tally.attempted(tuple(endpoints), size)
        bad = [endpoint for endpoint, is_bad in endpoints.items() if is_bad]
        tally.dropped(Fault(endpoint, errno.ENOBUFS) for endpoint in bad)
        attempts, drops = attempts + len(endpoints), drops + len(bad)
    outcomes = Report.of(tally, age=0, stale=False).outcomes
    assert sum(outcome.sent + outcome.dropped for outcome in outcomes) == attempts
    assert sum(outcome.dropped for outcome in outcomes) == drops
    assert len({outcome.endpoint for outcome in outcomes}) == len(outcomes)


def test_a_refusal_by_a_pod_that_left_is_told() -> None:
    tally = Tally()
    tally.attempted((A,), 1)
    tally.refused([Fault(B, errno.ECONNREFUSED)])
    assert Report.of(tally, age=0, stale=False).refused == (Outcome(B, refused=1, errno=errno.ECONNREFUSED),)


def test_a_long_stream_keeps_counts_and_not_every_set_of_pods() -> None:
    tally = Tally()
    for number in range(1000):
        tally.attempted((A, B, C)[: number % 3 + 1], 1)
    assert len(tally.runs) < 200
    outcomes = Report.of(tally, age=0, stale=False).outcomes
    assert [(outcome.endpoint, outcome.sent) for outcome in outcomes] == [(A, 1000), (B, 666), (C, 333)]
