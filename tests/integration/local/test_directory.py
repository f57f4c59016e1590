"""The state directory: one owner at a time, and nothing of others is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from fanout.local.directory import StateDirectory
from fanout.local.state import LocalServiceError


def test_the_directory_has_one_owner_and_keeps_what_is_not_ours(path: Path) -> None:
    directory = StateDirectory.take(str(path))
    assert path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(LocalServiceError, match="running already"):
        StateDirectory.take(str(path))
    (path / "notes").write_text("mine")
    (path / "supervisor.log").write_text("")
    directory.release()
    assert [entry.name for entry in path.iterdir()] == ["notes"]
    StateDirectory.take(str(path)).release()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("file", "is not a directory"),
        ("file/below", r"cannot be made \(Not a directory\)"),
        ("open", r"is open to others \(mode 0755, not 0700\)"),
        ("x" * 120, "too long for a Unix socket"),
    ],
)
def test_a_directory_that_will_not_do_is_named(path: Path, name: str, sentence: str) -> None:
    (path.parent / "file").touch()
    (path.parent / "open").mkdir()
    (path.parent / "open").chmod(0o755)
    with pytest.raises(LocalServiceError, match=sentence) as caught:
        StateDirectory.take(str(path.parent / name))
    assert "FANOUT_LOCAL_DIR" in str(caught.value)
