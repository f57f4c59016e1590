"""How a Service that runs is found, and what is not believed to be one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fanout.local import state
from fanout.local.directory import StateDirectory
from fanout.local.state import LocalService, NotRunning
from tests.support.local import SERVICE


def test_find_returns_what_was_published(published: LocalService) -> None:
    assert state.find() == published
    assert state.running().name == "headless-udp.local.svc.cluster.local"


def test_find_imports_next_to_nothing() -> None:
    script = (
        "from __future__ import annotations; import sys, typing, fanout.errors; before = set(sys.modules);"
        "from fanout.local.state import find; assert find() is None;"
        "print(*sorted(set(sys.modules) - before))"
    )
    environment = {"FANOUT_LOCAL_DIR": "/nonexistent", "PATH": os.environ["PATH"]}
    output = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == ["fanout.local", "fanout.local.state"]


def test_find_believes_no_directory_that_others_could_have_written(published: LocalService) -> None:
    os.chmod(published.directory, 0o750)  # noqa: PTH101
    assert state.find() is None
    os.chmod(published.directory, 0o700)  # noqa: PTH101
    assert state.find() == published


def test_find_follows_no_link_of_somebody_else(published: LocalService, monkeypatch: pytest.MonkeyPatch) -> None:
    link = Path(published.directory).with_name("link")
    link.symlink_to(published.directory)
    monkeypatch.setenv("FANOUT_LOCAL_DIR", str(link))
    assert state.find() is None


@pytest.mark.parametrize("content", ["", "pid", "pid x\n", "\udcff", "pid 1\nnameserver 127.0.0.1:1\n", "\n" * 10])
def test_find_ignores_a_file_that_is_not_ours(published: LocalService, content: str) -> None:
    Path(state.file_path(published.directory)).write_bytes(os.fsencode(content))
    assert state.find() is None


def test_find_ignores_a_service_that_died(path: Path) -> None:
    directory = StateDirectory.take(str(path))
    directory.publish(SERVICE._replace(directory=str(path)))
    assert state.find() is None
    with pytest.raises(NotRunning, match="fanout local up"):
        state.running()
    directory.release()
    assert not path.exists()


def test_where_the_state_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FANOUT_LOCAL_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/t")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert state.directory_path() == f"{tmp_path}/fanout"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "absent"))
    assert state.directory_path() == f"/t/fanout-{os.geteuid()}"
    monkeypatch.setenv("FANOUT_LOCAL_DIR", "relative")
    assert state.directory_path() == str(Path.cwd() / "relative")
