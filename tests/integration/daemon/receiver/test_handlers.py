"""What the receiver app does with messages: commands, functions, and what of them goes wrong."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from fanout.daemon.receiver.handlers import CommandHandler, FunctionHandler, make_handler
from fanout.errors import FanoutError, InvalidInput
from fanout.protocol.frame import AnswerStatus
from fanout.protocol.sending.receipt import ReceiptStatus
from fanout.sender.sync import Sender
from tests.support.admin import get
from tests.support.cli import receiving
from tests.support.ports import free_port
from tests.support.receivers import admin_of, asked_of, confirm, metric, query, receive
from tests.support.waiting import PATIENCE, until

HANDLERS = """
import asyncio, sys, threading

def shout(message): return message.payload.upper()
async def reverse(message):
    loop = asyncio.get_running_loop()
    later = loop.create_future()
    loop.call_soon(later.set_result, message.payload[::-1])
    return await later
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
def hang(message): threading.Event().wait()
def replies(message): message.reply(b"by itself")
def large(message): return bytes(1 << 25)
class Object:
    def method(self, message): return globals()[message.payload.decode()](message)
it = Object()
"""


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])


FUNCTIONS = {
    b"shout": (b"SHOUT", ""),
    b"reverse": (b"esrever", ""),
    b"nothing": (b"", ""),
    b"replies": (b"by itself", ""),
    b"text": (None, "the handler must return bytes or None; got str"),
    b"boom": (None, "ValueError: no such cache"),
    b"leave": (None, "SystemExit: 3"),
    b"unprintable": (None, "Unprintable: it cannot be printed"),
    b"leaving": (None, "Leaving: it cannot be printed"),
    b"exiting": (None, "Exiting: it cannot be printed"),
    b"cancelled": (None, "CancelledError"),
    b"large": (None, "reply must be at most 16,777,216 bytes; got 33,554,432"),
    b"ping": (b"pong", ""),  # the app's own, in any case
}


@pytest.mark.usefixtures("handlers")
def test_functions(tmp_path: Path) -> None:
    with receiving(tmp_path, "--handler", "handlers:it.method") as (receiver, endpoint):
        assert {payload: query(endpoint, payload) for payload in FUNCTIONS} == FUNCTIONS
        run = receiver.stop()
        assert (run.code, run.err) == (0, "")
    said = [(event["outcome"], event.get("reason", "")) for event in receiver.events("message_received")]
    assert said == [("failed" if reason else "replied", reason) for _, reason in FUNCTIONS.values()]
    stopped = receiver.events("receiver_stopped")[0]
    assert (stopped["handler_errors"], stopped["replied"]) == (8, 5)


# Handlers that hang.


@pytest.mark.usefixtures("handlers")
def test_a_hanging_handler_stops_nothing_else(tmp_path: Path) -> None:
    admin_port = ("--admin-port", str(free_port()))
    with asked_of(tmp_path, "--handler", "handlers:hang", *admin_port) as (receiver, asker):
        admin = admin_of(receiver)
        asker.ask(1, b"x")
        asker.ask(1, b"x", attempt=1)
        assert asker.status(1) is AnswerStatus.PENDING
        asker.send(*[b"plain"] * 50)
        until(lambda: metric(admin, "fanout_receiver_datagrams_total") == 51)
        assert get(f"{admin}/livez") == (200, "ok\n")
        assert receiver.stop().code == 0
        assert asker.status(1) is AnswerStatus.FAILED
    stopped = receiver.events("receiver_stopped")[0]
    assert (stopped["unhandled"], stopped["datagrams"], stopped["handler_errors"]) == (51, 51, 51)


@pytest.mark.usefixtures("handlers")
def test_a_second_signal_ends_a_hanging_handler_at_once(tmp_path: Path) -> None:
    with asked_of(tmp_path, "--handler", "handlers:hang", "--drain", "3600") as (receiver, asker):
        asker.ask(1, b"x")
        asker.ask(1, b"x", attempt=1)
        assert asker.status(1) is AnswerStatus.PENDING
        receiver.process.send_signal(signal.SIGTERM)
        receiver.wait_until(lambda: "receiver_draining" in receiver.out)
        assert receiver.stop().code == 0


def test_without_a_handler_messages_are_confirmed_and_strange_queries_are_not(tmp_path: Path) -> None:
    with receiving(tmp_path) as (receiver, endpoint):
        assert confirm(endpoint).status is ReceiptStatus.CONFIRMED
        reply, reason = query(endpoint, b"status")
        assert reply is None
        assert "answers the queries ping and info alone" in reason
        with Sender(endpoint, numbered=True) as sender:
            sender.send(b"numbered")
            sender.send(b"plain", confirm=True, timeout=PATIENCE)
        receiver.stop()
    assert [event.get("outcome") for event in receiver.events("message_received")] == [
        "handled", "failed", None, "handled",
    ]  # fmt: skip
    stopped = receiver.events("receiver_stopped")[0]
    assert (stopped["confirmed"], stopped["failed"], stopped["handler_errors"], stopped["lost"]) == (2, 1, 0, 0)


def test_refused_frames_are_logged_and_counted(tmp_path: Path, key_file: str) -> None:
    with asked_of(tmp_path, "--key-file", key_file) as (receiver, asker):
        asker.ask(1, b"x")
        receiver.wait_until(lambda: "frame_refused" in receiver.out)
        receiver.stop()
        assert asker.is_quiet()
    assert receiver.events("frame_refused")[0]["reason"] == "unsealed"
    assert receiver.events("receiver_stopped")[0]["refused"] == {"unsealed": 1}


def test_messages_are_confirmed_that_the_log_leaves_out(tmp_path: Path, key_file: str) -> None:
    """Also those that are not sealed, where that is allowed."""
    arguments = ("--log-rate", "0.001", "--key-file", key_file, "--accept-plaintext")
    with receiving(tmp_path, *arguments) as (receiver, endpoint):
        with Sender(endpoint) as sender:
            for _ in range(20):
                assert sender.send(b"x", confirm=True, timeout=PATIENCE).complete
        receiver.stop()
    assert len(receiver.events("message_received")) == 1
    assert sum(event["count"] for event in receiver.events("messages_suppressed")) == 19
    assert receiver.events("receiver_stopped")[0]["confirmed"] == 20


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
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "broken.py").write_text("import sys\nraise RuntimeError('a\\nb')\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(5)\n")
    (tmp_path / "wrong.py").write_text("def f(:\n")
    ports = ("--port", "0", "--admin-port", "0")
    for arguments, code, part in (
        (("--handler", "broken:f"), 1, "cannot import module broken: RuntimeError: a b"),
        (("--handler", "leaving:f"), 1, "SystemExit: 5"),
        (("--handler", "wrong:f"), 1, "SyntaxError"),
        (("--handler", "nonsense"), 2, "--handler must be MODULE:FUNCTION; got 'nonsense'"),
        (("--exec", "'"), 2, "--exec"),
        (("--exec", "cat", "--handler", "a:b"), 2, "give one"),
        (("--exec", "cat", "--exec-timeout", "0"), 2, "--exec-timeout"),
        (("--exec-timeout", "1"), 2, "--exec-timeout needs --exec: give both"),
        (("--cluster", "prod"), 2, "--cluster needs --key-file: give both"),
        (("--accept-plaintext",), 2, "--accept-plaintext needs --key-file: give both"),
        (("--exec", "/nonexistent"), 1, "'/nonexistent'"),
        (("--key-file", "/nonexistent"), 1, "/nonexistent"),
    ):
        assert part in receive(*ports, *arguments).assert_one_sentence(code)
