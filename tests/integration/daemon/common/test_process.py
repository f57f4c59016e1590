"""A program as a process: what it logs, and whether it is alive and ready. Of real ones: tests of each."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from fanout.daemon.common import process
from fanout.daemon.common.process import Process, ProcessSettings, Program, open_log
from fanout.daemon.core.text_table import TextTable
from tests.support.admin import get
from tests.support.ports import free_port


class _Counting(Program[int]):
    """Counts, and is whatever a test sets."""

    started, draining, stopped, when_stuck = "it_started", "it_drains", "it_stopped", "nothing was counted"

    def __init__(self) -> None:
        self.state = self
        self.stats = 0
        self.waiting: str | None = None
        self.silence = 0.0

    def introduction(self, admin: str | None) -> dict[str, object]:
        return {"admin": admin}

    def collectors(self) -> Iterable[Collector]:
        return ()

    def tables(self, before: int, after: int, seconds: float, room: int) -> list[TextTable]:
        return []

    def log_changes(self, log: FilteringBoundLogger, before: int, after: int) -> None:
        if after > before:
            log.warning("it_grew", count=after - before)

    def totals(self, stats: int) -> dict[str, object]:
        return {"total": stats}


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Leaves the library's logger as it was."""
    library = logging.getLogger("fanout")
    level, handlers = library.level, library.handlers
    yield
    library.setLevel(level)
    library.handlers = handlers


@contextmanager
def opened(log_file: Path, admin_port: int = 0) -> Iterator[tuple[Process[int], _Counting]]:
    settings = ProcessSettings(
        admin_host="127.0.0.1", admin_port=admin_port, log_level="info", log_format="json", log_file=str(log_file)
    )
    program = _Counting()
    stream, log = open_log(settings)
    try:
        with Process(settings, program, stream, log) as running:
            yield running, program
    finally:
        stream._file.close()


def logged(log_file: Path) -> list[dict[str, Any]]:
    own = ("timestamp", "level", "pod", "namespace", "pod_ip", "node")
    lines = [json.loads(line) for line in log_file.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in own} for line in lines]


def test_it_logs_its_start_what_changes_and_its_end(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as (running, program), running.running():
        program.stats = 2
        assert running.check() == 2
        running.check()
        program.stats = 5
        running.drain()
    assert logged(tmp_path / "log") == [
        {"event": "it_started", "admin": None},
        {"event": "it_grew", "count": 2},
        {"event": "it_drains", "seconds": 0.0},
        {"event": "it_grew", "count": 3},
        {"event": "it_stopped", "total": 5, "lost_lines": 0},
    ]


def test_the_admin_port_says_whether_it_is_alive_and_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with opened(tmp_path / "log", port) as (running, program), running.running():
        assert logged(tmp_path / "log") == [{"event": "it_started", "admin": f"127.0.0.1:{port}"}]
        assert get(f"{url}/livez") == get(f"{url}/readyz") == (200, "ok\n")
        program.waiting = "eth1 is not there"
        assert get(f"{url}/readyz") == (503, "eth1 is not there\n")
        running.drain()
        assert get(f"{url}/readyz") == (503, "draining\n")
        program.silence = 3600.0
        assert get(f"{url}/livez") == (503, "nothing was counted for 3600 s\n")
        program.silence = 0.0
        monkeypatch.setattr(process, "_CHECK_OVERDUE", -1.0)
        assert get(f"{url}/livez") == (503, "nothing was counted for 0 s\n")
    with pytest.raises(OSError, match="refused"):
        get(f"{url}/livez")
