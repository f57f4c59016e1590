"""What comes close together leaves together, and nothing waits for what may never come."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from fanout.protocol.sending.pacer import Pacer
from fanout.sender.coalescer import BATCH, DELAY, Coalescer
from tests.support.clock import ScriptedClock
from tests.support.waiting import until


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ScriptedClock:
    made = ScriptedClock()
    made.pace(monkeypatch)
    return made


class Flushes:
    """Keeps what was flushed."""

    def __init__(self, failing_from: int | None = None) -> None:
        self.batches: list[list[bytes]] = []
        self.failed = threading.Event()
        self._failing_from = failing_from

    def __call__(self, payloads: list[bytes]) -> None:
        if self._failing_from is not None and len(self.batches) >= self._failing_from:
            self.failed.set()
            raise OSError("the kernel is gone")
        self.batches.append(payloads)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for batch in self.batches for payload in batch]


def numbered(count: int) -> Iterator[bytes]:
    return (b"%d" % number for number in range(count))


@pytest.mark.parametrize("never_pauses", [True, False])
def test_what_comes_fast_leaves_in_few_batches_and_in_order(clock: ScriptedClock, never_pauses: bool) -> None:
    flushes = Flushes()
    with Coalescer(flushes, never_pauses=never_pauses) as coalescer:
        for payload in numbered(3_000):
            clock.now += 2e-6
            assert coalescer.put(payload)
    assert flushes.payloads == list(numbered(3_000))
    assert len(flushes.batches) <= 1 + 3_000 / BATCH + 3_000 * 2e-6 / DELAY + 1
    assert max(map(len, flushes.batches)) <= BATCH


def test_a_lone_message_does_not_wait(clock: ScriptedClock) -> None:
    flushes = Flushes()
    with Coalescer(flushes) as coalescer:
        for number in range(3):
            coalescer.put(b"%d" % number)
            assert flushes.batches == [[b"%d" % earlier] for earlier in range(number + 1)]
            clock.now += 0.005


def test_a_producer_that_pauses_does_not_hold_back_what_it_has_put(clock: ScriptedClock) -> None:
    flushes = Flushes()
    with Coalescer(flushes) as coalescer:
        coalescer.put(b"first")
        coalescer.put(b"second, within a millisecond")
        assert flushes.batches == [[b"first"]]
        clock.now += 0.002
        until(lambda: len(flushes.batches) == 2)
    assert len(flushes.payloads) == 2


def test_an_error_of_the_producer_leaves_what_came_before_it_sent() -> None:
    flushes = Flushes()

    def stream() -> None:
        with Coalescer(flushes, never_pauses=True) as coalescer:
            coalescer.put(b"1")
            coalescer.put(b"2")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        stream()
    assert flushes.payloads == [b"1", b"2"]


@pytest.mark.parametrize("meets_it", ["the stream", "the thread"])
def test_what_the_flush_raises_comes_out_of_the_stream_once(clock: ScriptedClock, meets_it: str) -> None:
    flushes = Flushes(failing_from=1)

    def stream() -> None:
        with Coalescer(flushes) as coalescer:
            for payload in numbered(1_000):
                coalescer.put(payload)
                if payload == b"1" and meets_it == "the thread":
                    clock.now += 0.002
                    until(flushes.failed.is_set)

    with pytest.raises(OSError, match="gone"):
        stream()
    assert flushes.payloads == [b"0"]


def test_a_stop_ends_a_long_wait(clock: ScriptedClock) -> None:
    class Stop(threading.Event):
        """Set by the one that waits for it."""

        def wait(self, timeout: float | None = None) -> bool:
            assert timeout == pytest.approx(3600)
            self.set()
            return super().wait(timeout)

    flushes, stop = Flushes(), Stop()
    with Coalescer(flushes, pacer=Pacer(clock.now, rate=1 / 3600, bandwidth=None), stop=stop) as coalescer:
        assert coalescer.put(b"1")
        assert not coalescer.put(b"2")
        assert not coalescer.put(b"3")
    assert flushes.payloads == [b"1"]


def test_a_paced_stream_leaves_in_its_order(clock: ScriptedClock) -> None:
    flushes = Flushes()
    with Coalescer(flushes, pacer=Pacer(clock.now, rate=50_000, bandwidth=None)) as coalescer:
        for payload in numbered(2_000):
            coalescer.put(payload)
    assert flushes.payloads == list(numbered(2_000))
    assert max(map(len, flushes.batches)) <= BATCH
    assert clock.now - 1000.0 == pytest.approx(2_000 / 50_000, abs=0.002)
