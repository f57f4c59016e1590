"""What is remembered of event subscriptions, without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.ssdp.core.urls import HttpUrl, Origin
from fanout.ssdp.http import gena
from fanout.ssdp.http.gena import Subscription, Subscriptions
from tests.support.ssdp_http import (
    CLIENT,
    POD,
    RELAY,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("Second-300", 300), ("second-1", 1), (" Second-0 ", 0), ("Second-infinite", gena.LIFETIME_MAX)),
        *(("Second-999999999", gena.LIFETIME_MAX), (None, 1800), ("", 1800), ("300", 1800), ("Second--1", 1800)),
        *(("Second-9999999999999", 1800), ("Second-\u0663", 1800)),
    ],
)
def test_what_a_timeout_grants(value: str | None, seconds: int) -> None:
    assert gena.lifetime(value) == seconds


def _add(subscriptions: Subscriptions, now: float, client: str = CLIENT) -> Subscription:
    added = subscriptions.add(client, RELAY, 28_200, Origin(POD, 8200), [HttpUrl(Origin(client, 1), "/")], now)
    assert added is not None
    return added


def test_a_subscription_lives_as_long_as_the_pod_says() -> None:
    subscriptions = Subscriptions()
    added = _add(subscriptions, 0.0)
    subscriptions.confirmed(added, "uuid:1", 300, 10.0)
    assert subscriptions.by_token(added.token, 310.0) is added
    assert subscriptions.by_sid(28_200, "uuid:1", CLIENT, 310.0) is added
    assert subscriptions.by_token(added.token, 341.0) is None
    assert subscriptions.by_sid(28_200, "uuid:1", CLIENT, 341.0) is None
    subscriptions.expire(341.0)
    assert len(subscriptions) == 0


def test_a_subscription_that_is_not_answered_does_not_stay() -> None:
    subscriptions = Subscriptions()
    added = _add(subscriptions, 0.0)
    assert subscriptions.by_token(added.token, 59.0) is added
    subscriptions.expire(61.0)
    assert len(subscriptions) == 0
    subscriptions.confirmed(added, "uuid:1", 300, 62.0)  # the answer comes too late
    assert subscriptions.by_sid(28_200, "uuid:1", CLIENT, 62.0) is None


def test_a_sid_that_is_given_again_is_the_new_ones() -> None:
    subscriptions = Subscriptions()
    old, new = _add(subscriptions, 0.0), _add(subscriptions, 0.0)
    subscriptions.confirmed(old, "uuid:1", 300, 0.0)
    subscriptions.confirmed(new, "uuid:1", 300, 0.0)
    assert subscriptions.by_sid(28_200, "uuid:1", CLIENT, 1.0) is new
    assert subscriptions.by_token(old.token, 1.0) is None
    subscriptions.forget(new)
    assert len(subscriptions) == 0


def test_there_are_no_more_subscriptions_than_may_be() -> None:
    subscriptions = Subscriptions()
    for number in range(gena.SUBSCRIPTIONS_MAX):
        _add(subscriptions, 0.0, f"10.0.{number // 200}.{number % 200}")
    assert subscriptions.add("10.1.0.1", RELAY, 1, Origin(POD, 1), [], 0.0) is None
    assert subscriptions.add("10.1.0.1", RELAY, 1, Origin(POD, 1), [], 61.0) is not None  # the others are over


@given(st.text(), st.sampled_from(["10.0.0.1", "::1"]))
def test_no_text_is_a_callback_of_anybody_else(text: str, client: str) -> None:
    assert all(callback.origin.host == client for callback in gena.callbacks(text, client))


def test_no_token_is_another() -> None:
    subscriptions = Subscriptions()
    tokens = {_add(subscriptions, 0.0, f"10.0.0.{number}").token for number in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= 32 for token in tokens)
