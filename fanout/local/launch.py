"""Starting the processes of the local headless Service: its supervisor, and the receivers that are its pods.

`python -m fanout.local.launch PARENT_PID receive ...` is `python -m fanout receive ...` in a process that the kernel
kills when its parent, the supervisor, dies, even of SIGKILL. The kernel is asked from there, and not in a preexec
function, which is unsafe where the parent has threads.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fanout.local import state
from fanout.local.state import LocalService, LocalServiceError
from fanout.model import DEFAULT_PORT

MAX_REPLICAS = 100
"""Each is a process of its own, of about 30 MB."""
MAX_DRAIN = 60.0
STOP_GRACE = 5.0
"""Seconds past the drain time that a receiver has to end before it is killed."""
STATUS_TIMEOUT = 30.0
"""Seconds after which a supervisor that does not report its status hangs: a running machine takes milliseconds."""
STOP_TIMEOUT = MAX_DRAIN + 3 * STOP_GRACE
"""Seconds that a command waits for pods to end."""
_PR_SET_PDEATHSIG = 1


class LocalSettings(NamedTuple):
    """The Service to run."""

    replicas: int = 2
    port: int = DEFAULT_PORT
    drain: float = 0.5
    """Seconds that a receiver goes on receiving after SIGTERM."""
    watched: tuple[int, ...] = ()
    """Processes whose end ends the Service."""


def ready_timeout(replicas: int) -> float:
    """Return the seconds that N pods, started side by side, may take to become ready on a busy machine.

    A pod that cannot start ends, and is not waited for so long.
    """
    return 60.0 + replicas


def launch(settings: LocalSettings) -> tuple[subprocess.Popen[bytes], LocalService]:
    """Start the local headless Service, and return its supervisor and itself once every pod is ready.

    The supervisor is a process with a session of its own: neither Ctrl-C nor a terminal that is held (Ctrl-S)
    reaches it. Raises `LocalServiceError` with the reason where the Service does not come up; nothing is left behind
    then.
    """
    if sys.platform != "linux":
        raise LocalServiceError(
            f"the local headless Service needs Linux (this is {sys.platform}): "
            "only there the loopback interface has all of 127.0.0.0/8"
        )
    process: subprocess.Popen[bytes] | None = None
    try:
        with interrupts_later():
            process = subprocess.Popen(
                python_command("fanout.local.supervisor", json.dumps(settings._asdict())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        assert process.stdout is not None  # noqa: S101 - narrows the type
        with process.stdout as stream:
            line = stream.readline()
        outcome = json.loads(line) if line else {"error": "the supervisor ended before the pods were ready"}
        service = None if "error" in outcome else state.find()
        if service is not None:
            return process, service
    except BaseException:
        if process is not None:
            process.terminate()
            process.wait()
        raise
    process.wait()
    raise LocalServiceError(outcome.get("error", "the local headless Service was ended as soon as it was ready"))


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Hold back the signals that end a command until the process being started is known, and can be ended with it."""
    came: list[int] = []
    caught = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if callable(signal.getsignal(number))]
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in caught}
    try:
        yield
    finally:
        # One that comes while they are put back waits for the last of them.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, before)
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for late in came:
        signal.raise_signal(late)


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module in this Python, importing from where this process does."""
    # -m looks into the working directory first: right only where this process does so too (python -m fanout).
    flags = () if any(path in ("", str(Path.cwd())) for path in sys.path) else ("-P",)
    return [sys.executable, *flags, "-m", module, *arguments]


def describe_end(code: int) -> str:
    """Return how a process ended, from its return code: `ended with exit code 1`, `was killed by SIGKILL`."""
    if code >= 0:
        return f"ended with exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}"


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; exit at once if the parent is gone already."""
    import ctypes  # slow to import, and needed by pods alone

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    _end_with(int(sys.argv.pop(1)))
    runpy.run_module("fanout", run_name="__main__", alter_sys=True)
