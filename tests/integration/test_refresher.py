from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest

from fanout.discovery.answer import Answer, Refusal
from fanout.errors import NoEndpoints, ResolverUnavailable
from fanout.model import Endpoint
from fanout.refresher import Refresher
from fanout.testing import ScriptedResolver


def eventually(condition: Callable[[], object], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.msg).partition(":")[0] for record in caplog.records]


def test_pods_are_known_and_changes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fanout")
    resolver = ScriptedResolver("10.0.0.1", "10.0.0.1,10.0.0.2", "10.0.0.2", dns_ttl=0)
    refresher = Refresher(resolver, "headless-udp")
    refresher.start()
    assert [str(endpoint) for endpoint in refresher.endpoints().endpoints] == ["10.0.0.1:12000"]
    eventually(lambda: len(events(caplog)) == 3)
    refresher.stop()
    assert [str(endpoint) for endpoint in refresher.known.endpoints] == ["10.0.0.2:12000"]
    assert events(caplog) == ["pod_joined", "pod_joined", "pod_left"]
    assert "10.0.0.1:12000 of headless-udp" in caplog.messages[-1]


def test_a_failure_keeps_the_pods_and_tells_their_age(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fanout")
    failure = ResolverUnavailable("no answer within 2 s")
    refresher = Refresher(ScriptedResolver("10.0.0.1", failure, failure, "10.0.0.1", dns_ttl=0), "headless-udp")
    refresher.start()
    eventually(lambda: refresher.known.failures == 1)
    known = refresher.endpoints()
    assert len(known.endpoints) == 1
    assert known.failure == "no answer within 2 s"
    age = known.age(time.monotonic())
    assert age is not None
    assert age >= 0.9
    eventually(lambda: refresher.known.failure is None)
    refresher.stop()
    assert events(caplog) == ["pod_joined", "resolver_failed", "resolver_recovered"]
    assert "keeping 1 known pods of headless-udp" in caplog.messages[1]


def test_the_first_failure_is_raised_and_the_next_answer_heals(caplog: pytest.LogCaptureFixture) -> None:
    refresher = Refresher(ScriptedResolver(ResolverUnavailable("SERVFAIL"), "10.0.0.1"), "headless-udp")
    refresher.start()
    with pytest.raises(ResolverUnavailable, match="SERVFAIL"):
        refresher.endpoints()
    eventually(lambda: refresher.known.endpoints)
    refresher.stop()


def test_no_endpoints_after_one_confirmation() -> None:
    resolver = ScriptedResolver("")
    refresher = Refresher(resolver, "nosuch")
    refresher.start()
    with pytest.raises(NoEndpoints, match="'nosuch'"):
        refresher.endpoints()
    assert resolver.asked == 2
    refresher.stop()


def test_an_empty_answer_after_a_failure_is_not_believed_before_its_confirmation() -> None:
    resolver = ScriptedResolver(ResolverUnavailable("SERVFAIL"), "")
    refresher = Refresher(resolver, "nosuch")
    refresher.start()
    with pytest.raises(ResolverUnavailable, match="SERVFAIL"):
        refresher.endpoints()
    eventually(lambda: resolver.asked == 2)
    eventually(lambda: refresher.known.failure is None)
    with pytest.raises(ResolverUnavailable, match="being confirmed"):
        refresher.endpoints()
    eventually(lambda: refresher.known.settled)
    with pytest.raises(NoEndpoints):
        refresher.endpoints()
    refresher.stop()


def test_an_answer_of_refused_addresses_says_so(caplog: pytest.LogCaptureFixture) -> None:
    hostile = Answer((), 5.0, "headless-udp.", (Refusal("127.0.0.1", "loopback"),))
    refresher = Refresher(ScriptedResolver(hostile), "headless-udp")
    refresher.start()
    with pytest.raises(NoEndpoints, match=r"127\.0\.0\.1 \(loopback\)"):
        refresher.endpoints()
    refresher.stop()
    assert events(caplog) == ["address_refused"]


def test_a_resolver_with_a_bug_does_not_end_the_refreshing(caplog: pytest.LogCaptureFixture) -> None:
    refresher = Refresher(ScriptedResolver("10.0.0.1", ZeroDivisionError("oops"), "10.0.0.2", dns_ttl=0), "name")
    refresher.start()
    eventually(lambda: Endpoint("10.0.0.2", 12000) in refresher.known.endpoints)
    refresher.stop()
    assert "ZeroDivisionError: oops" in caplog.text


def test_literals_are_asked_for_once() -> None:
    resolver = ScriptedResolver("10.0.0.1", dns_ttl=None)
    refresher = Refresher(resolver, "10.0.0.1")
    refresher.start()
    refresher.endpoints()
    eventually(lambda: not any(thread.name.startswith("fanout-") for thread in threading.enumerate()))
    assert resolver.asked == 1


def test_stopping_frees_who_waits_for_a_first_answer() -> None:
    released = threading.Event()

    class Hanging:
        def resolve(self) -> Answer:
            released.wait(5)
            return Answer(())

    refresher = Refresher(Hanging(), "headless-udp")
    refresher.start()
    threading.Timer(0.05, refresher.stop).start()
    with pytest.raises(ResolverUnavailable, match="closed"):
        refresher.endpoints()
    released.set()
