"""What this process has open, to see that nothing was left open."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.support import ports

_FOLDER = Path("/proc/self/fd")


def open_files() -> set[str]:
    """Return the number and name of each open file, without what holds ports for tests to come."""
    found = set()
    for each in _FOLDER.iterdir():
        with contextlib.suppress(OSError):  # the folder that is read here
            if int(each.name) not in ports.held:
                found.add(f"{each.name} {each.readlink()}")
    return found
