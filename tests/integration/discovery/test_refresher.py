from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from fanout.discovery import refresher as module
from fanout.discovery.core.answer import DnsAnswer, Refusal
from fanout.discovery.refresher import Refresher
from fanout.errors import NoEndpoints, ResolverUnavailable
from fanout.model import Endpoint
from fanout.testing import ScriptedResolver
from tests.support.limits import SOON, setting
from tests.support.waiting import PATIENCE, until


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    with setting(SOON):
        yield


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.msg).partition(":")[0] for record in caplog.records]


class Clock:
    """A clock that a refresher's waiting moves on, and nothing else; the moment after the last wait stops it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, waits: int) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        clock = self

        class Event(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                if timeout is None:
                    return super().wait()
                clock.now += timeout
                clock.waits.append(round(timeout, 6))
                return len(clock.waits) == waits

        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(module, "threading", SimpleNamespace(Event=Event, Thread=threading.Thread))
        monkeypatch.setattr(module, "random", SimpleNamespace(random=lambda: 0.5))


def test_a_failure_keeps_the_pods_and_tells_their_age(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "fanout")
    clock = Clock(monkeypatch, waits=3)
    failure = ResolverUnavailable("no answer within 2 s")
    refresher = Refresher(ScriptedResolver("10.0.0.1", failure, failure, dns_ttl=7), "headless-udp")
    refresher.start()
    until(lambda: len(clock.waits) == 3, "three questions")
    known = refresher.endpoints()
    assert [str(endpoint) for endpoint in known.endpoints] == ["10.0.0.1:12000"]
    assert (known.failure, known.failures) == ("no answer within 2 s", 2)
    # The DNS TTL, and after failures a back-off: the age counts from the answer.
    assert clock.waits == [7.0, 0.02, 0.04]
    assert known.age(clock.now) == pytest.approx(7.06)
    assert events(caplog) == ["pod_joined", "resolver_failed"]
    assert "keeping 1 known pods of headless-udp, answered 7.0 s ago: no answer" in caplog.messages[1]


def test_an_answer_ends_a_failure(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "fanout")
    clock = Clock(monkeypatch, waits=5)
    failure = ResolverUnavailable("no answer within 2 s")
    refresher = Refresher(ScriptedResolver("10.0.0.1", failure, failure, "10.0.0.1", dns_ttl=7), "headless-udp")
    refresher.start()
    until(lambda: len(clock.waits) == 5, "five questions")
    assert (refresher.known.failure, refresher.known.failures) == (None, 2)
    assert clock.waits == [7.0, 0.02, 0.04, 7.0, 7.0]
    assert refresher.known.age(clock.now) == 7.0
    assert events(caplog) == ["pod_joined", "resolver_failed", "resolver_recovered"]
    assert caplog.messages[-1] == "resolver_recovered: headless-udp answers again after 7.1 s"


class Gated(ScriptedResolver):
    """Answers as often as it was let."""

    def __init__(self, *script: str | DnsAnswer | Exception) -> None:
        super().__init__(*script, dns_ttl=0)
        self.questions = 0
        self._gate = threading.Semaphore(0)

    def let(self, answers: int) -> None:
        self._gate.release(answers)

    def resolve(self) -> DnsAnswer:
        self.questions += 1
        self._gate.acquire(timeout=PATIENCE)
        return super().resolve()


Start = Callable[..., tuple[Refresher, Gated]]


@pytest.fixture
def gated() -> Iterator[Start]:
    """Start a refresher whose resolver answers as often as it is let."""
    with contextlib.ExitStack() as stack:

        def start(*script: str | DnsAnswer | Exception) -> tuple[Refresher, Gated]:
            resolver = Gated(*script)
            refresher = Refresher(resolver, "headless-udp")
            stack.callback(resolver.let, 1)
            stack.callback(refresher.stop)
            refresher.start()
            return refresher, resolver

        yield start


def test_pods_are_known_and_changes_are_logged_once(gated: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fanout")
    refresher, resolver = gated("10.0.0.1", "10.0.0.1,10.0.0.2", "10.0.0.2")
    resolver.let(1)
    assert [str(endpoint) for endpoint in refresher.endpoints().endpoints] == ["10.0.0.1:12000"]
    # The rest of the script, and again what it ends with: by the seventh question, all six answers were believed.
    resolver.let(5)
    until(lambda: resolver.questions == 7, "the seventh question")
    assert [str(endpoint) for endpoint in refresher.known.endpoints] == ["10.0.0.2:12000"]
    assert events(caplog) == ["pod_joined", "pod_joined", "pod_left"]
    assert "10.0.0.1:12000 of headless-udp" in caplog.messages[-1]


def test_the_first_failure_is_raised_and_the_next_answer_heals(gated: Start) -> None:
    refresher, resolver = gated(ResolverUnavailable("SERVFAIL"), "10.0.0.1")
    resolver.let(1)
    with pytest.raises(ResolverUnavailable, match="SERVFAIL"):
        refresher.endpoints()
    resolver.let(1)
    until(lambda: refresher.known.endpoints, "the next answer")


def test_no_endpoints_after_one_confirmation(gated: Start) -> None:
    refresher, resolver = gated("")
    resolver.let(2)
    with pytest.raises(NoEndpoints, match="'headless-udp'"):
        refresher.endpoints()
    assert resolver.asked == 2


def test_an_empty_answer_after_a_failure_is_not_believed_before_its_confirmation(gated: Start) -> None:
    refresher, resolver = gated(ResolverUnavailable("SERVFAIL"), "")
    resolver.let(1)
    with pytest.raises(ResolverUnavailable, match="SERVFAIL"):
        refresher.endpoints()
    resolver.let(1)
    until(lambda: refresher.known.failure is None, "the empty answer")
    with pytest.raises(ResolverUnavailable, match="being confirmed"):
        refresher.endpoints()
    resolver.let(1)
    until(lambda: refresher.known.settled, "its confirmation")
    with pytest.raises(NoEndpoints):
        refresher.endpoints()


def test_an_answer_of_refused_addresses_says_so(caplog: pytest.LogCaptureFixture) -> None:
    hostile = DnsAnswer((), 5.0, "headless-udp.", (Refusal("127.0.0.1", "loopback"),))
    refresher = Refresher(ScriptedResolver(hostile), "headless-udp")
    refresher.start()
    with pytest.raises(NoEndpoints, match=r"127\.0\.0\.1 \(loopback\)"):
        refresher.endpoints()
    refresher.stop()
    assert events(caplog) == ["address_refused"]


def test_a_resolver_with_a_bug_does_not_end_the_refreshing(caplog: pytest.LogCaptureFixture) -> None:
    refresher = Refresher(ScriptedResolver("10.0.0.1", ZeroDivisionError("oops"), "10.0.0.2", dns_ttl=0), "name")
    refresher.start()
    until(lambda: Endpoint("10.0.0.2", 12000) in refresher.known.endpoints, "the answer after the bug")
    refresher.stop()
    assert "ZeroDivisionError: oops" in caplog.text


def test_literals_are_asked_for_once() -> None:
    resolver = ScriptedResolver("10.0.0.1", dns_ttl=None)
    refresher = Refresher(resolver, "10.0.0.1")
    refresher.start()
    refresher.endpoints()
    until(lambda: not any(thread.name.startswith("fanout-") for thread in threading.enumerate()), "the thread ends")
    assert resolver.asked == 1


def test_stopping_frees_who_waits_for_a_first_answer(gated: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()

    class Decided(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout is None:
                waits.set()
            return super().wait(timeout)

    monkeypatch.setattr(module, "threading", SimpleNamespace(Event=Decided, Thread=threading.Thread))
    refresher, _ = gated("10.0.0.1")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(refresher.endpoints)
        assert waits.wait(PATIENCE)
        refresher.stop()
        with pytest.raises(ResolverUnavailable, match="closed"):
            waiting.result(PATIENCE)
