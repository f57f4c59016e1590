"""Which pods are known, after any history of answers and failures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.discovery.core.answer import DnsAnswer
from fanout.discovery.core.endpoints import CONFIRM_AFTER, RETRY_MAX, TTL_MAX, TTL_MIN, Change, EndpointSet
from fanout.model import Endpoint

PODS = [Endpoint(f"10.0.0.{number}", 12000) for number in range(1, 8)]
NO_CHANGE = Change((), ())
ANSWERS = st.lists(st.sampled_from(PODS), unique=True).map(lambda pods: DnsAnswer(tuple(pods), 5.0))


def names(endpoints: tuple[Endpoint, ...]) -> str:
    return "".join(endpoint.host[-1] for endpoint in endpoints)


def answer(text: str, dns_ttl: float | None = 5.0) -> DnsAnswer:
    return DnsAnswer(tuple(Endpoint(f"10.0.0.{digit}", 12000) for digit in text), dns_ttl)


def test_pods_join_at_once_and_leave_with_the_second_answer_without_them() -> None:
    pods = EndpointSet()
    assert names(pods.answered(answer("21"), 0).joined) == "12"
    change = pods.answered(answer("13"), 5)
    assert (names(change.joined), names(change.left)) == ("3", "")
    assert names(pods.known.endpoints) == "123"
    assert pods.next_wakeup == 5 + CONFIRM_AFTER
    change = pods.answered(answer("13"), 5.25)
    assert (names(change.joined), names(change.left)) == ("", "2")
    assert names(pods.known.endpoints) == "13"
    assert pods.next_wakeup == pytest.approx(5.25 + 5)


def test_servers_that_differ_lose_no_pod() -> None:
    pods = EndpointSet()
    pods.answered(answer("123"), 0)
    for moment in range(1, 20):
        assert pods.answered(answer("12" if moment % 2 else "23"), moment) == NO_CHANGE
    assert names(pods.known.endpoints) == "123"


def test_an_empty_answer_is_believed_after_one_confirmation() -> None:
    pods = EndpointSet()
    pods.answered(answer("12"), 0)
    assert pods.answered(answer(""), 5) == NO_CHANGE
    assert names(pods.known.endpoints) == "12"
    assert names(pods.answered(answer(""), 5.25).left) == "12"
    assert pods.known.endpoints == ()
    assert pods.next_wakeup == pytest.approx(5.25 + 5)


def test_a_first_empty_answer_is_believed_after_one_confirmation() -> None:
    pods = EndpointSet()
    pods.answered(answer("", None), 0)
    assert not pods.known.settled
    assert pods.next_wakeup == CONFIRM_AFTER
    pods.answered(answer("", None), CONFIRM_AFTER)
    assert pods.known.settled
    assert pods.next_wakeup == pytest.approx(CONFIRM_AFTER + 5)


def test_failures_keep_the_pods_and_back_off() -> None:
    pods = EndpointSet()
    pods.answered(answer("12"), 0)
    delays = []
    for moment in range(10, 15):
        pods.failed("SERVFAIL", moment)
        delays.append((pods.next_wakeup or 0) - moment)
    assert names(pods.known.endpoints) == "12"
    assert pods.known.answered_at == 0
    assert (pods.known.failure, pods.known.failures) == ("SERVFAIL", 5)
    assert delays == pytest.approx([1, 2, 4, 5, 5])
    pods.answered(answer("12"), 20)
    assert (pods.known.failure, pods.known.failures) == (None, 5)


def test_a_failure_between_two_answers_confirms_nothing() -> None:
    pods = EndpointSet()
    pods.answered(answer("12"), 0)
    pods.answered(answer("1"), 1)
    pods.failed("timeout", 2)
    assert names(pods.known.endpoints) == "12"
    assert names(pods.answered(answer("1"), 3).left) == "2"


@pytest.mark.parametrize("dns_ttl", [0, 1, 5, 30, 600, 2**31 - 1, -5])
@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_the_dns_ttl_is_clamped_and_jittered(dns_ttl: float, jitter: float) -> None:
    pods = EndpointSet()
    pods.answered(answer("1", dns_ttl), 100, jitter)
    delay = (pods.next_wakeup or 0) - 100
    clamped = min(max(dns_ttl, TTL_MIN), TTL_MAX)
    assert delay == pytest.approx(clamped * (0.9 + 0.2 * jitter))


def test_a_literal_list_is_never_asked_for_again() -> None:
    pods = EndpointSet()
    pods.answered(answer("12", None), 0)
    assert pods.next_wakeup is None


@given(st.lists(ANSWERS | st.none(), max_size=30), st.floats(0, 1))
def test_any_history(history: list[DnsAnswer | None], jitter: float) -> None:
    """Joined and left add up to what is known; nobody leaves who was named by one of the last two answers."""
    pods = EndpointSet()
    believed: set[Endpoint] = set()
    answers: list[set[Endpoint]] = []
    for moment, item in enumerate(history):
        if item is None:
            before = pods.known.endpoints
            pods.failed("timeout", moment, jitter)
            assert pods.known.endpoints is before
            assert 0 < (pods.next_wakeup or 0) - moment <= RETRY_MAX * 1.1
            continue
        change = pods.answered(item, moment, jitter)
        answers.append(set(item.endpoints))
        assert believed.isdisjoint(change.joined)
        assert believed.issuperset(change.left)
        believed = (believed | set(change.joined)) - set(change.left)
        assert pods.known.endpoints == tuple(sorted(believed))
        assert answers[-1] <= believed
        assert believed <= set().union(*answers[-2:])
        assert moment < (pods.next_wakeup or 0) <= moment + TTL_MAX * 1.1
    if len(answers) >= 2 and answers[-1] == answers[-2]:
        assert believed == answers[-1]
