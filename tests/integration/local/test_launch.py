"""How processes of the local headless Service are started, and with whom they end."""

from __future__ import annotations

import os
import signal
import subprocess

from fanout.local import launch
from tests.support.cli import environment


def test_a_command_that_ends_with_its_parent_does_not_start_without_it() -> None:
    def run(parent: int) -> subprocess.CompletedProcess[str]:
        command = launch.python_command("fanout.local.launch", str(parent), "--version")
        return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)

    child = run(os.getpid())
    assert (child.returncode, child.stdout.split()[:1]) == (0, ["fanout"]), child.stderr
    orphan = run(os.getppid())
    assert (orphan.returncode, orphan.stdout, orphan.stderr) == (1, "", "")


def test_an_interrupt_comes_once_the_process_that_is_being_started_is_known() -> None:
    events: list[str] = []
    before = signal.signal(signal.SIGHUP, lambda *_: events.append("interrupted"))
    try:
        with launch.interrupts_later():
            signal.raise_signal(signal.SIGHUP)
            events.append("known")
        assert events == ["known", "interrupted"]
        signal.raise_signal(signal.SIGHUP)
        assert len(events) == 3, "as before"
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with launch.interrupts_later():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "what is started ignores it, too"
    finally:
        signal.signal(signal.SIGHUP, before)
