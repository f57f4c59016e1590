"""The one thread that serves a relay."""

from __future__ import annotations

import threading

import pytest

from fanout.errors import InvalidInput
from fanout.relay import serving as module
from fanout.relay.serving import ServingThread
from tests.support.waiting import PATIENCE


def test_a_second_thread_is_refused_until_the_first_has_ended() -> None:
    serving = ServingThread()
    with serving, pytest.raises(InvalidInput, match="already served by another thread: call serve once"), serving:
        pass
    with serving:
        pass


def test_the_thread_itself_does_not_wait_for_its_end() -> None:
    serving = ServingThread()
    serving.wait()
    with serving:
        serving.wait()


def test_another_thread_waits_for_its_end() -> None:
    serving, entered, over = ServingThread(), threading.Event(), threading.Event()
    ended: list[str] = []

    def serve() -> None:
        with serving:
            entered.set()
            over.wait(PATIENCE)
            ended.append("served")

    def wait() -> None:
        serving.wait()
        ended.append("waited")

    threads = [threading.Thread(target=serve), threading.Thread(target=wait)]
    threads[0].start()
    assert entered.wait(PATIENCE)
    threads[1].start()
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert ended == ["served", "waited"]


def test_the_silence_is_since_the_last_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    serving = ServingThread()
    assert serving.silence == 0.0
    assert serving.begin_turn() == 100.0
    now = 107.5
    assert serving.silence == 7.5
    serving.begin_turn()
    assert serving.silence == 0.0
