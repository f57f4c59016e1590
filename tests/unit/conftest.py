"""The tests in this folder are those of `make check`: no socket, process, thread or sleep.

Whoever does is told so. What needs one of them belongs to `tests/integration`, or to `tests/system`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest


def _refusing(what: str) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail(f"a test in tests/unit {what}: it belongs to tests/integration", pytrace=False)

    return refuse


@pytest.fixture(autouse=True)
def nothing_of_the_world() -> Iterator[None]:
    with (
        mock.patch.object(socket.socket, "__init__", _refusing("opens a socket")),
        mock.patch.object(subprocess.Popen, "__init__", _refusing("starts a process")),
        mock.patch.object(os, "fork", _refusing("forks")),
        mock.patch.object(threading.Thread, "start", _refusing("starts a thread")),
        mock.patch.object(time, "sleep", _refusing("sleeps")),
    ):
        yield
