"""GStreamer's multiudpsink: a pipeline that is run twice, with few and with many buffers; the difference counts."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence

from benchmarks.lab import PORT

STARTUP_MESSAGES = 64
_LONGEST = 60.0


def why_no_gstreamer() -> str | None:
    """Return in one line why GStreamer cannot take part; None where it can."""
    packages = "apt install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
    if shutil.which("gst-launch-1.0") is None:
        return f"GStreamer is missing (Debian, Ubuntu: {packages})"
    inspected = subprocess.run(["gst-inspect-1.0", "--exists", "multiudpsink"], check=False)
    return f"GStreamer's multiudpsink is missing (Debian, Ubuntu: {packages})" if inspected.returncode else None


def burst(prefix: Sequence[str], size: int, addresses: Sequence[str], messages: int) -> dict[str, int]:
    """Send N messages, and `STARTUP_MESSAGES` twice; return the wall and CPU time of the former, in ns."""
    few = _run(prefix, size, addresses, STARTUP_MESSAGES)
    many = _run(prefix, size, addresses, STARTUP_MESSAGES + messages)
    return {"wall": max(1, many[0] - few[0]), "cpu": max(1, many[1] - few[1]), "failed": 0}


def _run(prefix: Sequence[str], size: int, addresses: Sequence[str], buffers: int) -> tuple[int, int]:
    source = ["fakesrc", f"num-buffers={buffers}", "sizetype=fixed", f"sizemax={size}", "filltype=nothing"]
    sink = ["multiudpsink", "sync=false", "async=false", f"clients={','.join(f'{host}:{PORT}' for host in addresses)}"]
    started = time.perf_counter_ns()
    process = subprocess.Popen([*prefix, "gst-launch-1.0", "-q", *source, "!", *sink])
    deadline = threading.Timer(_LONGEST, process.kill)
    deadline.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter_ns() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        deadline.cancel()
        if process.returncode is None:
            process.kill()
            process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return wall, round((usage.ru_utime + usage.ru_stime) * 1e9)
