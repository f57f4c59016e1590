"""A receiver that ends with its supervisor: `python -m fanout.local.pod SUPERVISOR_PID [ARGUMENT...]`.

The same code as `fanout receive ARGUMENT...`, in a process that the kernel kills when the supervisor dies, even
of SIGKILL. Asked for here and not in a preexec function, which is unsafe where the parent has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; exit at once if the parent is gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    from fanout.cli import main

    main(["receive", *sys.argv[2:]])
