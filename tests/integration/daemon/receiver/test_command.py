"""Commands that the receiver app runs for messages: what they say, and what they leave behind."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fanout.daemon.receiver import command
from fanout.protocol.frame import AnswerStatus
from fanout.protocol.sending.receipt import ReceiptStatus
from tests.support.cli import receiving
from tests.support.event_loops import AheadLoop, advance
from tests.support.receivers import asked_of, confirm, query
from tests.support.waiting import give_turns, until, until_async

STAYS = 'echo $$ >>"$1"; sleep 3600 & echo $! >>"$1"; wait'
"""Writes down its process and that of a program that it has started."""
SCRIPTS = {
    b"printf abc": (b"abc", ""),
    b"true": (b"", ""),
    b"printf %s ${FANOUT_SOURCE%:*}": (b"127.0.0.1", ""),
    b"echo first >&2; echo the disk is full >&2; exit 3": (None, "exit status 3: the disk is full"),
    b"kill -9 $$": (None, "ended by SIGKILL"),
    b"printf '\\033[31mred\\n' >&2; exit 1": (None, "exit status 1: ?[31mred"),
}


def test_commands(tmp_path: Path) -> None:
    """A shell, which gets each message as its script on standard input."""
    with receiving(tmp_path, "--exec", "sh", "--exec-timeout", "3600") as (receiver, endpoint):
        for script, (reply, reason) in SCRIPTS.items():
            assert query(endpoint, script) == (reply, reason)
            receipt = confirm(endpoint, script)
            assert (receipt.status, receipt.reason) == (
                (ReceiptStatus.FAILED, reason) if reason else (ReceiptStatus.CONFIRMED, "")
            )
        receiver.stop()
    said = [event["outcome"] for event in receiver.events("message_received")]
    assert said == [
        each for _, reason in SCRIPTS.values() for each in (["failed"] * 2 if reason else ["replied", "handled"])
    ]


def test_commands_that_do_not_end_are_killed(tmp_path: Path) -> None:
    why = "the command did not end within 0.1 s, and was killed"
    with receiving(tmp_path, "--exec", "sh", "--exec-timeout", "0.1") as (receiver, endpoint):
        for script in (b"sleep 3600 & sleep 3600", b"sleep 3600 & echo early", b"kill -STOP $$"):
            assert query(endpoint, script) == (None, why)
            assert confirm(endpoint, script).reason == why
        receiver.stop()
    assert [event["outcome"] for event in receiver.events("message_received")] == ["failed"] * 6


class Started:
    """Processes that write their ids to a file, a line each."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "pids"
        self.file.touch()

    def ids(self, count: int) -> list[int]:
        """Return the ids, where there are so many; otherwise none."""
        lines = self.file.read_text().split("\n")
        return [int(line) for line in lines[:count]] if len(lines) > count else []

    def are_gone(self, count: int) -> bool:
        return not any(map(is_running, self.ids(count)))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_command_that_is_killed_as_the_receiver_stops_leaves_nothing_behind(tmp_path: Path) -> None:
    started = Started(tmp_path)
    text = shlex.join(["sh", "-c", STAYS, "sh", str(started.file)])
    with asked_of(tmp_path, "--exec", text, "--exec-timeout", "3600", "--drain", "3600") as (receiver, asker):
        asker.ask(1, b"x")
        receiver.wait_until(lambda: started.ids(2))
        receiver.process.send_signal(signal.SIGTERM)
        receiver.wait_until(lambda: "receiver_draining" in receiver.out)
        assert receiver.stop().code == 0
        answer = asker.answer()
    assert (answer.status, answer.detail) == (
        AnswerStatus.FAILED, b"the receiver was stopped before its handler had returned",
    )  # fmt: skip
    until(lambda: started.are_gone(2))


class Loop(AheadLoop):
    """An event loop that keeps the commands that it has run."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[asyncio.SubprocessTransport] = []

    async def subprocess_exec(self, *arguments: Any, **named: Any) -> Any:
        transport, protocol = await super().subprocess_exec(*arguments, **named)
        self.started.append(transport)
        return transport, protocol


def run_command(*arguments: str, payload: bytes = b"", is_time_up: Callable[[], object] | None = None) -> command.Ended:
    """Run a command; once `is_time_up`, an hour passes in a moment, again and again."""

    async def run() -> command.Ended:
        running = asyncio.create_task(
            command.run(list(arguments), payload, environment=os.environ, time_limit=3600, wants_output=True)
        )
        if is_time_up is not None:
            await until_async(is_time_up)
            while not running.done():
                advance(3600)
                await give_turns()
        ended = await running
        await until_async(lambda: None not in [transport.get_returncode() for transport in loop.started])
        return ended

    loop = Loop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(run())


def test_a_command_whose_time_is_up_leaves_nothing_behind(tmp_path: Path) -> None:
    started = Started(tmp_path)
    ended = run_command("sh", "-c", STAYS, "sh", str(started.file), is_time_up=lambda: started.ids(2))
    assert ended == (b"", "the command did not end within 3600 s, and was killed")
    until(lambda: started.are_gone(2))


def test_what_a_command_says_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.OUTPUT_MAX == 16 << 20
    monkeypatch.setattr(command, "OUTPUT_MAX", 1 << 20)
    ended = run_command("head", "-c", "1100000", "/dev/zero")
    assert (len(ended.output), ended.problem) == (1 << 20, "")
    ended = run_command("sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x >&2; exit 1")
    assert ended.problem == "exit status 1: " + "x" * 200
    assert run_command("true", payload=bytes(1 << 19)) == (b"", "")
    assert len(run_command("cat", payload=bytes(1 << 19)).output) == 1 << 19
    assert "cannot run /nonexistent/program" in run_command("/nonexistent/program").problem
    assert "ended by SIG" in run_command("sh", "-c", "kill -TERM $$").problem


def test_who_holds_the_pipes_and_escapes_is_not_waited_for(tmp_path: Path) -> None:
    started = Started(tmp_path)
    escape = f"""
import os, signal
os.fork() and os._exit(0)
os.setsid()
with open({str(started.file)!r}, "a") as file:
    print(os.getpid(), file=file)
signal.pause()
"""
    try:
        ended = run_command(sys.executable, "-c", escape, payload=bytes(1 << 20), is_time_up=lambda: started.ids(1))
        assert "was killed" in ended.problem
        assert not started.are_gone(1)
    finally:
        for pid in started.ids(1):
            os.kill(pid, signal.SIGKILL)
