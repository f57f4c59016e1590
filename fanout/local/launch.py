"""Starting processes of the local headless Service: the supervisor, and what it needs to start pods."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from fanout.local import state
from fanout.local.settings import Settings
from fanout.local.state import LocalService, LocalServiceError


def launch(settings: Settings) -> tuple[subprocess.Popen[bytes], LocalService]:
    """Start the local headless Service, and return its supervisor and itself once every pod is ready.

    The supervisor is a process with a session of its own: neither Ctrl-C nor a terminal that is held (Ctrl-S)
    reaches it. Raises `LocalServiceError` with the reason where the Service does not come up; nothing of it is
    left then.
    """
    if sys.platform != "linux":
        raise LocalServiceError(
            f"the local headless Service needs Linux (this is {sys.platform}): "
            "only there the loopback interface has all of 127.0.0.0/8"
        )
    process = subprocess.Popen(
        python_command("fanout.local.supervisor", settings.to_json()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None  # noqa: S101 - narrows the type
    try:
        with process.stdout as stream:
            line = stream.readline()
        outcome = json.loads(line) if line else {"error": "the supervisor ended before the pods were ready"}
        service = None if "error" in outcome else state.find()
        if service is not None:
            return process, service
    except BaseException:
        process.terminate()
        process.wait()
        raise
    process.wait()
    raise LocalServiceError(outcome.get("error", "the local headless Service was ended as soon as it was ready"))


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
