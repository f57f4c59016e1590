"""What is run for a process of the local headless Service, and how its end is told."""

from __future__ import annotations

import json
import sys

import pytest

from fanout.local.launch import LocalSettings, describe_end, python_command


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (1, "ended with exit code 1"),
        (-9, "was killed by SIGKILL"),
        (-1000, "was killed by signal 1000"),
    ],
)
def test_an_end_is_told_by_exit_code_or_signal(code: int, words: str) -> None:
    assert describe_end(code) == words


@pytest.mark.parametrize(("path", "flags"), [("", []), ("/elsewhere", ["-P"])])
def test_modules_come_from_the_working_directory_only_where_they_do_here(
    monkeypatch: pytest.MonkeyPatch, path: str, flags: list[str]
) -> None:
    monkeypatch.setattr(sys, "path", [path])
    assert python_command("fanout", "send", "-m", "hi") == [sys.executable, *flags, "-m", "fanout", "send", "-m", "hi"]


def test_settings_are_one_argument_of_a_process() -> None:
    settings = LocalSettings(replicas=3, port=12001, drain=0.0)
    passed = LocalSettings(**json.loads(json.dumps(settings._replace(watched=(7,))._asdict())))
    assert (passed[:3], list(passed.watched)) == (settings[:3], [7])
