"""How processes of the local headless Service are started, and how they ended."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from fanout.local.launch import LocalSettings, describe_end, interrupts_later, launch, python_command
from fanout.local.state import LocalServiceError


def test_an_interrupt_comes_once_the_process_that_is_being_started_is_known() -> None:
    events: list[str] = []
    before = signal.signal(signal.SIGHUP, lambda *_: events.append("interrupted"))
    try:
        with interrupts_later():
            signal.raise_signal(signal.SIGHUP)
            events.append("known")
        assert events == ["known", "interrupted"]
        signal.raise_signal(signal.SIGHUP)
        assert len(events) == 3, "as before"
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with interrupts_later():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "what is started ignores it, too"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_only_linux_has_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(LocalServiceError, match=r"needs Linux \(this is darwin\)"):
        launch(LocalSettings())


@pytest.mark.parametrize(("path", "looks_here"), [("", True), (".", True), ("/usr", False)])
def test_a_module_is_looked_for_where_this_process_looks(
    monkeypatch: pytest.MonkeyPatch, path: str, looks_here: bool
) -> None:
    monkeypatch.setattr(sys, "path", [str(Path.cwd()) if path == "." else path])
    flags = [] if looks_here else ["-P"]
    assert python_command("fanout", "local", "up") == [sys.executable, *flags, "-m", "fanout", "local", "up"]


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended with exit code 0"), (3, "ended with exit code 3"), (-9, "was killed by SIGKILL"),
     (-99, "was killed by signal 99")],
)  # fmt: skip
def test_how_a_process_ended_is_said_in_words(code: int, words: str) -> None:
    assert describe_end(code) == words
