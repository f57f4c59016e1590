"""A Service that seems to run, and the directory of its state."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fanout.local import state
from fanout.local.directory import StateDirectory
from fanout.local.state import LocalService
from tests.support.local import SERVICE, short_folder


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with short_folder() as folder:
        path = folder / "state"
        monkeypatch.setenv("FANOUT_LOCAL_DIR", str(path))
        yield path


@pytest.fixture
def published(path: Path) -> Iterator[LocalService]:
    """A Service that seems to run: its directory is held, and something listens on its control socket."""
    service = SERVICE._replace(directory=str(path))
    directory = StateDirectory.take(str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(state.control_path(str(path)))
        listener.listen()
        directory.publish(service)
        yield service
    directory.release()
