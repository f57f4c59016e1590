"""`fanout local demo` plays its story, and leaves nothing, however it ends."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.limits import PATIENT, variables
from tests.support.local import Local, lives, local_service
from tests.support.waiting import until


@pytest.fixture
def local() -> Iterator[Local]:
    with local_service() as made:
        # The demo takes the usual port, which another test may have.
        made.variables |= variables({**PATIENT, "fanout.model:DEFAULT_PORT": made.port})
        yield made


def test_the_demo_plays_the_whole_story(local: Local) -> None:
    process = local.start("local", "demo")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    commands = re.findall(r"^\$ fanout (?:local )?(\w+)", output, re.MULTILINE)
    assert commands == ["up", "send", "logs", "scale", "send", "logs", "down"]
    assert len(re.findall(r'^\S+-[0-4] \| .*payload="hello to all five"$', output, re.MULTILINE)) == 5
    assert_nothing_is_left(directory_of(output))


@pytest.mark.parametrize(("moment", "how"), [("up", signal.SIGTERM), ("up", signal.SIGINT), ("scale", signal.SIGINT)])
def test_a_demo_that_is_interrupted_leaves_nothing(local: Local, moment: str, how: signal.Signals) -> None:
    process = local.start("local", "demo", start_new_session=True)
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith("$ fanout ") and moment in line:
            break
    os.killpg(process.pid, how) if how is signal.SIGINT else process.send_signal(how)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "Error" not in errors, errors
    assert_nothing_is_left(directory_of(output))


def test_a_temporary_folder_may_have_a_long_path(local: Local, tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 30) / "with a blank"
    deep.mkdir(parents=True)
    local.variables["TMPDIR"] = str(deep)
    process = local.start("local", "demo")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_nothing_is_left(directory_of(output))
    assert not list(deep.iterdir())


def directory_of(output: str) -> str:
    match = re.search(r"FANOUT_LOCAL_DIR=(\S+)", output)
    assert match is not None
    return match[1]


def assert_nothing_is_left(directory: str) -> None:
    until(lambda: not processes_with(directory), lambda: f"{processes_with(directory)} end")
    assert not Path(directory).exists()


def processes_with(text: str) -> list[int]:
    """Return the processes that have a text in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if text.encode() in path.read_bytes() and lives(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found
