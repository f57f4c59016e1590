"""What the receiver app does with messages: commands, functions, and what of them goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import urllib.request
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fanout.delivery.receipt import Receipt, ReceiptStatus
from fanout.errors import FanoutError, InvalidInput
from fanout.receiver import ReceiverStats
from fanout.sender import Sender
from fanout.wire.reasons import ReceiveDrop
from fanout_receiver import command
from fanout_receiver.handlers import CommandHandler, FunctionHandler, make_handler
from fanout_receiver.questions import Answerer
from tests.support.cli import Running, fanout, receiving
from tests.support.ports import free_port

HANDLERS = """
import asyncio, sys, threading, time

def shout(message): return message.payload.upper()
async def reverse(message):
    await asyncio.sleep(0.01)
    return message.payload[::-1]
def nothing(message): return None
def text(message): return "text"
def boom(message): raise ValueError("no such cache")
class Unprintable(Exception):
    def __str__(self): raise self
def unprintable(message): raise Unprintable
class Leaving(SystemExit):
    def __str__(self): raise self
def leaving(message): raise Leaving
class Exiting(Exception):
    def __str__(self): sys.exit(3)
def exiting(message): raise Exiting
def leave(message): sys.exit(3)
async def cancelled(message): raise asyncio.CancelledError
def hang(message): time.sleep(60)
def replies(message): message.reply(b"by itself")
def large(message): return bytes(1 << 25)
class Object:
    def method(self, message): return b"method"
it = Object()
"""


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)


def query(endpoint: str, payload: bytes = b"abc", timeout: float = 5.0) -> tuple[bytes | None, Receipt]:
    with Sender(endpoint) as sender:
        asked = sender.query(payload, timeout=timeout)
        replies = [reply.payload for reply in asked]
        return (replies[0] if replies else None), asked.confirmation.receipts[0]


def confirm(endpoint: str, payload: bytes = b"abc", timeout: float = 5.0) -> Receipt:
    with Sender(endpoint) as sender:
        return sender.send(payload, confirm=True, timeout=timeout).receipts[0]


@pytest.mark.parametrize(
    ("name", "reply", "reason"),
    [
        ("shout", b"ABC", ""),
        ("reverse", b"cba", ""),
        ("nothing", b"", ""),
        ("replies", b"by itself", ""),
        ("it.method", b"method", ""),
        ("text", None, "the handler returned str, not bytes or None"),
        ("boom", None, "ValueError: no such cache"),
        ("leave", None, "SystemExit: 3"),
        ("unprintable", None, "Unprintable: it cannot be printed"),
        ("leaving", None, "Leaving: it cannot be printed"),
        ("exiting", None, "Exiting: it cannot be printed"),
        ("cancelled", None, "CancelledError"),
        ("large", None, "the reply has 33,554,432 bytes; at most 16,777,216 can be sent"),
    ],
)
@pytest.mark.usefixtures("handlers")
def test_functions(tmp_path: Path, name: str, reply: bytes | None, reason: str) -> None:
    with receiving(tmp_path, "--handler", f"handlers:{name}") as (receiver, endpoint):
        got, receipt = query(endpoint)
        assert (got, receipt.reason) == (reply, reason)
        assert query(endpoint, b"ping")[0] == b"pong"  # the app's own, in any case
        stopped_as = receiver.stop()
        assert (stopped_as.code, stopped_as.err) == (0, "")
    asked, _ = receiver.events("message_received")
    assert (asked["outcome"], asked.get("reason", "")) == ("failed" if reason else "replied", reason)
    stopped = receiver.events("receiver_stopped")[0]
    assert (stopped["handler_errors"], stopped["replied"]) == (bool(reason), 2 - bool(reason))


@pytest.mark.parametrize(
    ("text", "reply", "reason"),
    [
        ("cat", b"abc", ""),
        ("true", b"", ""),
        ("sh -c 'printf %s $FANOUT_SOURCE'", b"127.0.0.1:", ""),
        ("sh -c 'echo first >&2; echo the disk is full >&2; exit 3'", None, "exit status 3: the disk is full"),
        ("sh -c 'kill -9 $$'", None, "ended by SIGKILL"),
        ("sh -c 'sleep 30 & sleep 30'", None, "the command did not end within 0.5 s, and was killed"),
        ("sh -c 'sleep 30 & echo early'", None, "the command did not end within 0.5 s, and was killed"),
        ("sh -c 'printf \"\\033[31mred\\n\" >&2; exit 1'", None, "exit status 1: ?[31mred"),
    ],
)
def test_commands(tmp_path: Path, text: str, reply: bytes | None, reason: str) -> None:
    with receiving(tmp_path, "--exec", text, "--exec-timeout", "0.5") as (receiver, endpoint):
        got, receipt = query(endpoint)
        assert receipt.reason == reason
        assert got is None if reply is None else got is not None and got.startswith(reply)
        receipt = confirm(endpoint)
        assert (receipt.status, receipt.reason) == (
            (ReceiptStatus.FAILED, reason) if reason else (ReceiptStatus.CONFIRMED, "")
        )
        receiver.stop()
    assert [event["outcome"] for event in receiver.events("message_received")] == (
        ["failed", "failed"] if reason else ["replied", "handled"]
    )


def test_a_killed_command_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither where its time is up, nor where the receiver is stopped."""
    pids = tmp_path / "pids"
    text = f"sh -c 'echo $$ >>{pids}; sleep 60 & echo $! >>{pids}; wait'"
    with receiving(tmp_path, "--exec", text, "--exec-timeout", "0.3") as (receiver, endpoint):
        assert "was killed" in confirm(endpoint).reason
        receiver.stop()
    (tmp_path / "again").mkdir()
    with receiving(tmp_path / "again", "--exec", text) as (receiver, endpoint):
        assert confirm(endpoint, timeout=0.5).status is ReceiptStatus.SILENT
        assert receiver.stop().code == 0
    started = [int(line) for line in pids.read_text().split()]
    assert len(started) == 4
    deadline = time.monotonic() + 5
    while any(is_running(pid) for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run_command(*arguments: str, payload: bytes = b"", time_limit: float = 5.0) -> command.Ended:
    return asyncio.run(
        command.run(list(arguments), payload, environment=os.environ, time_limit=time_limit, wants_output=True)
    )


def test_what_a_command_says_is_bounded() -> None:
    ended = run_command("head", "-c", str(command.OUTPUT_MAX + 100_000), "/dev/zero", time_limit=30)
    assert (len(ended.output), ended.problem) == (command.OUTPUT_MAX, "")
    ended = run_command("sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1", time_limit=30)
    assert ended.problem == "exit status 1: " + "x" * 200
    assert run_command("true", payload=bytes(1 << 22)) == (b"", "")
    assert len(run_command("cat", payload=bytes(1 << 22)).output) == 1 << 22
    assert "cannot run /nonexistent/program" in run_command("/nonexistent/program").problem
    assert "ended by SIG" in run_command("sh", "-c", "kill -TERM $$").problem


def test_who_holds_the_pipes_and_escapes_is_not_waited_for() -> None:
    escape = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(3)"
    started = time.monotonic()
    ended = run_command(sys.executable, "-c", escape, payload=bytes(1 << 20), time_limit=0.5)
    assert "was killed" in ended.problem
    assert time.monotonic() - started < 2.5


@pytest.mark.usefixtures("handlers")
def test_a_hanging_handler_stops_nothing_else(tmp_path: Path) -> None:
    admin = ("--admin-port", str(free_port()))
    with receiving(tmp_path, "--handler", "handlers:hang", "--drain", "0.2", *admin) as running:
        receiver, endpoint = running
        receipt = confirm(endpoint, timeout=0.6)
        assert (receipt.status, receipt.reason) == (
            ReceiptStatus.SILENT, "it has the message, and its handler has not returned",
        )  # fmt: skip
        with Sender(endpoint) as sender:
            sender.send_many([b"plain"] * 50)
        deadline = time.monotonic() + 5
        while metric(receiver, "fanout_receiver_datagrams_total") < 51:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert get(receiver, "/livez") == "ok\n"
        started = time.monotonic()
        assert receiver.stop().code == 0
        assert time.monotonic() - started < 4
    stopped = receiver.events("receiver_stopped")[0]
    assert (stopped["unhandled"], stopped["datagrams"], stopped["handler_errors"]) == (51, 51, 51)


@pytest.mark.usefixtures("handlers")
def test_a_second_signal_ends_a_hanging_handler_at_once(tmp_path: Path) -> None:
    with receiving(tmp_path, "--handler", "handlers:hang", "--drain", "60") as (receiver, endpoint):
        confirm(endpoint, timeout=0.2)
        receiver.process.send_signal(signal.SIGTERM)
        receiver.wait_until(lambda: "receiver_draining" in receiver.out)
        started = time.monotonic()
        assert receiver.stop().code == 0
        assert time.monotonic() - started < 5


def get(receiver: Running, path: str) -> str:
    admin = receiver.events("receiver_started")[0]["admin"]
    with urllib.request.urlopen(f"http://{admin}{path}", timeout=5) as response:
        text: str = response.read().decode()
        return text


def metric(receiver: Running, name: str) -> float:
    return next(
        float(line.split()[1]) for line in get(receiver, "/metrics").splitlines() if line.startswith(f"{name} ")
    )


def test_without_a_handler_messages_are_confirmed_and_strange_queries_are_not(tmp_path: Path) -> None:
    with receiving(tmp_path) as (receiver, endpoint):
        assert confirm(endpoint).status is ReceiptStatus.CONFIRMED
        reply, receipt = query(endpoint, b"status")
        assert reply is None
        assert "answers the queries ping and info alone" in receipt.reason
        with Sender(endpoint, numbered=True) as sender:
            sender.send(b"numbered")
            sender.send(b"plain", confirm=True)
        receiver.stop()
    assert [event.get("outcome") for event in receiver.events("message_received")] == [
        "handled", "failed", None, "handled",
    ]  # fmt: skip
    stopped = receiver.events("receiver_stopped")[0]
    assert (stopped["confirmed"], stopped["failed"], stopped["handler_errors"], stopped["lost"]) == (2, 1, 0, 0)


def test_messages_are_confirmed_that_the_log_leaves_out(tmp_path: Path) -> None:
    with receiving(tmp_path, "--log-rate", "5") as (receiver, endpoint):
        with Sender(endpoint) as sender:
            for _ in range(100):
                assert sender.send(b"x", confirm=True, timeout=5.0).complete
        receiver.stop()
    logged = len(receiver.events("message_received"))
    suppressed = sum(event["count"] for event in receiver.events("messages_suppressed"))
    assert (logged + suppressed, receiver.events("receiver_stopped")[0]["confirmed"]) == (100, 100)
    assert logged < 100


def test_refused_frames_are_logged_and_counted(tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    assert fanout("keygen", key).code == 0
    with receiving(tmp_path, "--key-file", key) as (receiver, endpoint):
        assert confirm(endpoint, timeout=0.3).status is ReceiptStatus.SILENT
        receiver.stop()
    assert receiver.events("frame_refused")[0]["reason"] == "unsealed"
    assert receiver.events("receiver_stopped")[0]["refused"]["unsealed"] >= 1
    (tmp_path / "both").mkdir()
    with receiving(tmp_path / "both", "--key-file", key, "--accept-plaintext") as (_, endpoint):
        assert confirm(endpoint).status is ReceiptStatus.CONFIRMED


def test_info_fits_into_what_an_unsealed_question_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("POD_NAME", "POD_NAMESPACE", "NODE_NAME"):
        monkeypatch.setenv(variable, "x" * 63)
    monkeypatch.setenv("POD_IP", "fd00:1111:2222:3333:4444:5555:6666:7777")
    numbers: dict[str, Any] = {one.name: 10**8 for one in fields(ReceiverStats) if one.name != "refused"}
    many = ReceiverStats(**numbers, refused=dict.fromkeys(ReceiveDrop, 10**5))
    info = Answerer().answer(b"info", many)
    assert info is not None
    assert len(info) <= 1192
    assert json.loads(info)["counters"]["refused"]["unsealed"] == 10**5


@pytest.mark.usefixtures("handlers")
def test_what_can_be_a_handler() -> None:
    assert make_handler(None, None, 1.0) is None
    assert isinstance(make_handler("cat -v", None, 1.0), CommandHandler)
    assert isinstance(make_handler(None, "os.path:basename", 1.0), FunctionHandler)
    for program, function, error in (
        ("cat", "os:getcwd", InvalidInput),
        ("", None, InvalidInput),
        ("'open", None, InvalidInput),
        ("no-such-program-anywhere", None, FanoutError),
        ("/", None, FanoutError),
        (None, "os", InvalidInput),
        (None, ":x", InvalidInput),
        (None, "os:", InvalidInput),
        (None, "os:a b", InvalidInput),
        (None, "os:no_such", FanoutError),
        (None, "os:sep", FanoutError),
        (None, "no_such_module:f", FanoutError),
        (None, "..os:f", InvalidInput),
    ):
        with pytest.raises(error):
            make_handler(program, function, 1.0)


def test_a_handler_that_cannot_be_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("import sys\nraise RuntimeError('a\\nb')\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(5)\n")
    (tmp_path / "wrong.py").write_text("def f(:\n")
    ports = ("--port", "0", "--admin-port", "0")
    for arguments, code, part in (
        (("--handler", "broken:f"), 1, "module broken cannot be imported: RuntimeError: a b"),
        (("--handler", "leaving:f"), 1, "SystemExit: 5"),
        (("--handler", "wrong:f"), 1, "SyntaxError"),
        (("--handler", "nonsense"), 2, "module:function"),
        (("--exec", "'"), 2, "--exec"),
        (("--exec", "cat", "--handler", "a:b"), 2, "give one"),
        (("--exec", "cat", "--exec-timeout", "0"), 2, "--exec-timeout"),
        (("--exec-timeout", "1"), 2, "without --exec: give both"),
        (("--cluster", "prod"), 2, "without --key-file"),
        (("--accept-plaintext",), 2, "--accept-plaintext says nothing without --key-file"),
        (("--exec", "/nonexistent"), 1, "'/nonexistent'"),
        (("--key-file", "/nonexistent"), 1, "/nonexistent"),
    ):
        assert part in fanout("receive", *ports, *arguments).assert_one_sentence(code)
