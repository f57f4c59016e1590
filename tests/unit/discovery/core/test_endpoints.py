"""Which pods are known, after any history of answers and failures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.discovery.core.answer import DnsAnswer
from fanout.discovery.core.endpoints import CONFIRM_AFTER, RETRY_MAX, TTL_MAX, TTL_MIN, EndpointSet
from fanout.model import Endpoint

PODS = [Endpoint(f"10.0.0.{number}", 12000) for number in range(1, 8)]
ANSWERS = st.lists(st.sampled_from(PODS), unique=True).map(lambda pods: DnsAnswer(tuple(pods), 5.0))


def names(endpoints: tuple[Endpoint, ...]) -> str:
    return "".join(endpoint.host[-1] for endpoint in endpoints)


def answer(text: str, dns_ttl: float | None = 5.0) -> DnsAnswer:
    return DnsAnswer(tuple(Endpoint(f"10.0.0.{digit}", 12000) for digit in text), dns_ttl)


def test_pods_join_at_once_and_leave_with_the_second_answer_without_them() -> None:
    known = EndpointSet()
    assert names(known.answered(answer("21"), 0).joined) == "12"
    change = known.answered(answer("13"), 5)
    assert (names(change.joined), names(change.left)) == ("3", "")
    assert names(known.endpoints) == "123"
    assert known.next_wakeup() == 5 + CONFIRM_AFTER
    change = known.answered(answer("13"), 5.25)
    assert (names(change.joined), names(change.left)) == ("", "2")
    assert names(known.endpoints) == "13"
    assert known.next_wakeup() == pytest.approx(5.25 + 5)


def test_servers_that_differ_lose_no_pod() -> None:
    known = EndpointSet()
    known.answered(answer("123"), 0)
    for moment in range(1, 20):
        assert not known.answered(answer("12" if moment % 2 else "23"), moment)
    assert names(known.endpoints) == "123"


def test_an_empty_answer_is_believed_after_one_confirmation() -> None:
    known = EndpointSet()
    known.answered(answer("12"), 0)
    assert not known.answered(answer(""), 5)
    assert names(known.endpoints) == "12"
    assert names(known.answered(answer(""), 5.25).left) == "12"
    assert known.endpoints == ()
    assert known.next_wakeup() == pytest.approx(5.25 + 5)


def test_a_first_empty_answer_is_believed_after_one_confirmation() -> None:
    known = EndpointSet()
    known.answered(answer("", None), 0)
    assert not known.settled
    assert known.next_wakeup() == CONFIRM_AFTER
    known.answered(answer("", None), CONFIRM_AFTER)
    assert known.settled
    assert known.next_wakeup() == pytest.approx(CONFIRM_AFTER + 5)


def test_failures_keep_the_pods_and_back_off() -> None:
    known = EndpointSet()
    known.answered(answer("12"), 0)
    delays = []
    for moment in range(10, 15):
        known.failed("SERVFAIL", moment)
        delays.append((known.next_wakeup() or 0) - moment)
    assert names(known.endpoints) == "12"
    assert known.answered_at == 0
    assert (known.failure, known.failures) == ("SERVFAIL", 5)
    assert delays == pytest.approx([1, 2, 4, 5, 5])
    known.answered(answer("12"), 20)
    assert (known.failure, known.failures) == (None, 5)


def test_a_failure_between_two_answers_confirms_nothing() -> None:
    known = EndpointSet()
    known.answered(answer("12"), 0)
    known.answered(answer("1"), 1)
    known.failed("timeout", 2)
    assert names(known.endpoints) == "12"
    assert names(known.answered(answer("1"), 3).left) == "2"


@pytest.mark.parametrize("dns_ttl", [0, 1, 5, 30, 600, 2**31 - 1, -5])
@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_the_dns_ttl_is_clamped_and_jittered(dns_ttl: float, jitter: float) -> None:
    known = EndpointSet()
    known.answered(answer("1", dns_ttl), 100, jitter)
    delay = (known.next_wakeup() or 0) - 100
    clamped = min(max(dns_ttl, TTL_MIN), TTL_MAX)
    assert delay == pytest.approx(clamped * (0.9 + 0.2 * jitter))


def test_a_literal_list_is_never_asked_for_again() -> None:
    known = EndpointSet()
    known.answered(answer("12", None), 0)
    assert known.next_wakeup() is None


@given(st.lists(ANSWERS | st.none(), max_size=30), st.floats(0, 1))
def test_any_history(history: list[DnsAnswer | None], jitter: float) -> None:
    """Joined and left add up to what is known; nobody leaves who was named by one of the last two answers."""
    known = EndpointSet()
    believed: set[Endpoint] = set()
    answers: list[set[Endpoint]] = []
    for moment, item in enumerate(history):
        if item is None:
            before = known.endpoints
            known.failed("timeout", moment, jitter)
            assert known.endpoints is before
            assert 0 < (known.next_wakeup() or 0) - moment <= RETRY_MAX * 1.1
            continue
        change = known.answered(item, moment, jitter)
        answers.append(set(item.endpoints))
        assert believed.isdisjoint(change.joined)
        assert believed.issuperset(change.left)
        believed = (believed | set(change.joined)) - set(change.left)
        assert known.endpoints == tuple(sorted(believed))
        assert answers[-1] <= believed
        assert believed <= set().union(*answers[-2:])
        assert moment < (known.next_wakeup() or 0) <= moment + TTL_MAX * 1.1
    if len(answers) >= 2 and answers[-1] == answers[-2]:
        assert believed == answers[-1]
