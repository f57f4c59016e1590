"""The live table on a terminal, above which the log scrolls, and where there is none."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live as RichLive

from fanout.daemon.common.live_tables import LiveTables, is_wanted
from fanout.daemon.common.logs import LogStream
from fanout.daemon.core.text_table import TextTable
from fanout.sender.sync import Sender
from tests.support.cli import strict_json
from tests.support.datagrams import send_to
from tests.support.ports import free_port
from tests.support.terminal import Terminal, shown, terminal
from tests.support.waiting import PATIENCE

# So much buffer any kernel gives: where it does not, a line says so.
_BUFFER = ("--receive-buffer", "100000")
RECEIVE = ("receive", "--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--drain", "0", *_BUFFER)
URL = "mcast://224.0.67.67:5001@eth1"


def port_in(screen: Terminal) -> int:
    """Wait for the table, and return the port that it shows."""
    found: list[str] = []

    def is_shown() -> bool:
        found[:] = re.findall(r"^127\.0\.0\.1:(\d+) ", "\n".join(screen.lines), re.MULTILINE)
        return len(found) == 1

    screen.wait_until(is_shown)
    return int(found[0])


@pytest.mark.parametrize(("number", "no_color"), [(signal.SIGINT, ""), (signal.SIGTERM, "1")])
def test_on_a_terminal_the_log_scrolls_above_a_table_that_stays(number: int, no_color: str) -> None:
    with terminal(*RECEIVE, NO_COLOR=no_color) as screen:
        port = port_in(screen)
        for index in range(30):
            send_to(port, [b"message %d" % index, b"\x1b[31mred\x1b[9A"])
        screen.wait_until(lambda: re.search(r"^127\.0\.0\.1:\d+ .* 60 ", "\n".join(screen.lines), re.MULTILINE))
        assert screen.stop(number) == 0
        printed, lines = bytes(screen.printed), screen.lines
    assert printed.rfind(b"\x1b[?25h") > printed.rfind(b"\x1b[?25l") > 0, "the cursor is visible"
    assert printed.rfind(b"\x1b[?25h", 0, printed.index(b"PORT")) > 0, "all the time"
    assert b"\x1b[?1049h" not in printed, "the terminal's own screen"
    assert (b"\x1b[3" in printed) == (not no_color)
    assert b"\x1b[31mred" not in printed
    events = [index for index, line in enumerate(lines) if re.match(r"\d{4}-\d\d-\d\dT", line)]
    assert len(events) == 60 + 3, "each line once"
    assert "receiver_stopped" in lines[events[-1]]
    (head,) = (index for index, line in enumerate(lines) if line.startswith("PORT "))
    assert head > events[-1], "the table is the last"
    assert [line for line in lines[head + 2 :] if line] == []
    assert lines[head + 1].split()[-5:] == ["60", "650", "B", "0", "0"]


def test_senders_of_frames_have_rows_of_their_own_and_the_log_may_go_to_a_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with terminal(*RECEIVE, "--log-file", str(log)) as screen:
        with Sender(f"127.0.0.1:{port_in(screen)}", numbered=True) as sender:
            for _ in range(5):
                sender.send(b"x")
            screen.wait_until(lambda: any(re.match(r"[0-9a-f]{16} +no +5 +0 +0 +0", line) for line in screen.lines))
        assert screen.stop(signal.SIGTERM) == 0
        assert "receiver_" not in "\n".join(screen.lines)
    assert [strict_json(line)["event"] for line in log.read_text().splitlines()] == [
        "receiver_started", *["message_received"] * 5, "receiver_draining", "receiver_stopped",
    ]  # fmt: skip


def test_whoever_asks_for_log_lines_gets_no_table() -> None:
    with terminal(*RECEIVE, "--log-format", "console") as screen:
        screen.wait_until(lambda: b"receiver_started" in screen.printed and screen.printed.endswith(b"\n"))
        assert screen.stop(signal.SIGTERM) == 0  # at the latest then a table would be painted
        assert [line for line in screen.lines if line and "receiver_" not in line] == []
        assert b"\x1b[?25" not in screen.printed


@pytest.mark.parametrize(
    ("log_format", "term", "wanted"),
    [("auto", "xterm", True), ("console", "xterm", False), ("json", "xterm", False)]
    + [("auto", term, False) for term in ("dumb", "unknown", "", None)],
)
def test_whoever_has_no_terminal_gets_no_table(
    monkeypatch: pytest.MonkeyPatch, log_format: str, term: str | None, wanted: bool
) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    with open(ours), open(theirs, "w") as screen, open(os.devnull, "w") as nowhere:
        for out, is_terminal in ((screen, True), (nowhere, False)):
            monkeypatch.setattr(sys, "stdout", out)
            assert is_wanted(log_format) == (wanted and is_terminal)


def test_a_terminal_that_lacks_characters_gets_the_table_without_them() -> None:
    service = ",".join(f"127.0.0.{number}" for number in range(11, 16))
    relay = ("relay", "-s", service, "--listen", f"udp://127.0.0.1:{free_port()}", "--admin-port", "0")
    with terminal(*relay, PYTHONIOENCODING="", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0") as screen:
        screen.wait_until(lambda: any(re.match(r"127\.0\.0\.15 +127\.0\.0\.11,.*\? ", line) for line in screen.lines))
        assert screen.stop(signal.SIGTERM) == 0
        assert b"Traceback" not in screen.printed
        assert any("relay_stopped" in line for line in screen.lines)


def test_an_encoding_that_lacks_characters_gets_the_table_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", write_through=True)
    monkeypatch.setattr(sys, "stdout", out)
    assert isinstance(out.buffer, io.BytesIO)
    with LiveTables(LogStream(None), lambda room: [TextTable(("A",), ("B",), [("some…", "1")], "")]):
        pass  # what is no terminal gets the table at the end
    assert b"some? " in out.buffer.getvalue()


def test_what_it_waits_for_is_told_whole_also_while_the_log_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """A second picture above which a line was logged has as many lines as the first."""
    sentence = "there is no interface eth9 here: " + "check its name, and that it is attached to the pod " * 3
    live = LiveTables(LogStream(None), lambda room: [TextTable(("A",), ("B",), [("a", "1")], sentence)])
    console = Console(width=60, height=30, force_terminal=True, legacy_windows=False)
    with RichLive(console=console, auto_refresh=False) as screen:
        live._paint(screen)
        before = capsys.readouterr().out
        assert live._take(line := "a line of the log that is longer than the terminal is wide " * 2)
        live._paint(screen)
        after = before + capsys.readouterr().out
    # A terminal makes "\r\n" of each "\n".
    first, second = (shown(text.replace("\n", "\r\n").encode()) for text in (before, after))
    assert " ".join(" ".join(first).split()).endswith(sentence.strip())
    assert [each.rstrip() for each in second if each] == [each.rstrip() for each in (line, *first) if each]


def test_the_table_goes_on_while_the_log_does(capsys: pytest.CaptureFixture[str]) -> None:
    counts = iter(range(100))
    live = LiveTables(LogStream(None), lambda room: [TextTable(("A",), ("B",), [("count", str(next(counts)))], "")])
    console = Console(width=60, height=30, force_terminal=True, legacy_windows=False)
    with RichLive(console=console, auto_refresh=False) as screen:
        for number in range(5):
            assert live._take(f"line {number}")
            live._paint(screen)
        # Before the end, which paints once more.
        printed = capsys.readouterr().out
    lines = shown(printed.replace("\n", "\r\n").encode())
    assert [line.split() for line in lines if line.startswith("count")] == [["count", "4"]]


def test_neither_a_small_terminal_nor_one_that_goes_away_stops_the_receiver() -> None:
    port = free_port()
    with terminal(*RECEIVE, "--port", str(port), size=(4, 20)) as screen:
        screen.wait_until(lambda: b"127.0" in screen.printed.partition(b"PORT")[2])
        screen.hang_up()
        with Sender(f"127.0.0.1:{port}") as sender:
            assert sender.send(b"still there?", confirm=True, timeout=PATIENCE).complete
        assert screen.stop(signal.SIGTERM) == 0
