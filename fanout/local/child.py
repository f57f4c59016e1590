"""A command of fanout that ends with its parent: `python -m fanout.local.child PARENT_PID receive ...`.

The same as `python -m fanout receive ...`, in a process that the kernel kills when the supervisor dies, even of
SIGKILL. The kernel is asked from here, and not in a preexec function, which is unsafe where the parent has
threads.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; exit at once if the parent is gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv.pop(1)))
    runpy.run_module("fanout", run_name="__main__", alter_sys=True)
