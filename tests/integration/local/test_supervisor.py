"""The supervisor, in this process, with pods that fail."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fanout.local import demo, logs, pod_process
from fanout.local.directory import StateDirectory
from fanout.local.launch import LocalSettings
from fanout.local.state import LocalServiceError
from fanout.local.supervisor import Supervisor
from tests.support.limits import PATIENT, variables
from tests.support.ports import free_port


def supervise(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    *,
    when_ready: Callable[[Supervisor], None] = lambda _: pytest.fail("the pods are not ready"),
    **settings: Any,
) -> None:
    """Run a supervisor whose receivers are a script."""
    monkeypatch.setattr(pod_process, "python_command", lambda *arguments: [sys.executable, "-c", script, *arguments])
    monkeypatch.setattr(pod_process, "_MIN_BACKOFF", 0.01)
    supervisor = Supervisor(LocalSettings(port=free_port(), **settings), StateDirectory.take(str(path)))
    asyncio.run(supervisor.run(lambda: when_ready(supervisor)))


def test_a_receiver_that_cannot_start_is_named_with_its_last_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LocalServiceError) as caught:
        supervise(path, monkeypatch, "import sys; sys.exit('first line\\nfanout: no such luck')")
    assert "statefulset-udp-server-" in str(caught.value)
    assert str(caught.value).endswith("did not become ready: no such luck")
    assert not path.exists()


def test_a_receiver_that_never_says_ready_is_not_waited_for_longer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanout.local.supervisor.ready_timeout", lambda _: 0.1)
    with pytest.raises(LocalServiceError, match="within 0 s: it wrote nothing to standard error"):
        supervise(path, monkeypatch, "import signal; print('{}', flush=True); signal.pause()", replicas=1)
    assert not path.exists()


def test_a_supervisor_that_is_told_to_stop_waits_for_no_pod(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import os, signal; os.kill(os.getppid(), signal.SIGTERM); signal.pause()"
    with pytest.raises(LocalServiceError, match="stopped before its pods were ready"):
        supervise(path, monkeypatch, script)
    assert not path.exists()


STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{"event": "receiver_started"}', flush=True)
while True:
    signal.pause()
"""


def test_a_receiver_that_does_not_end_is_killed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_process, "STOP_GRACE", 0.1)
    seen: list[int] = []

    def stop(supervisor: Supervisor) -> None:
        seen.extend(pod["pid"] for pod in supervisor._status()["pods"])
        os.kill(seen[0], signal.SIGTERM)
        supervisor._stop()

    supervise(path, monkeypatch, STUBBORN, when_ready=stop, replicas=1, drain=0.0)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


def test_a_command_that_does_not_exist_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(LocalServiceError, match="No such file or directory: '/nonexistent/python'"):
        supervise(path, monkeypatch, "")


def test_a_demo_whose_message_does_not_arrive_fails_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for variable, value in variables(PATIENT).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(demo, "_usable_port", free_port)
    monkeypatch.setattr(demo, "_LOG_TIMEOUT", 0.1)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(logs, "parse", lambda _: None)
    with pytest.raises(LocalServiceError, match=r"0 of 2 receivers logged 'cache invalidated' .* not statefulset"):
        demo.play()
    directory = capfd.readouterr().out.partition("FANOUT_LOCAL_DIR=")[2].split()[0]
    assert not Path(directory).exists()
