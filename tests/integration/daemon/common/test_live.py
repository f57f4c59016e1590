"""The live table: rates from two snapshots, and what a terminal shows."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.live import Live as RichLive

from fanout.daemon.common.live import LiveTables, is_wanted
from fanout.daemon.common.logs import LogStream
from fanout.daemon.core import receiver_table, relay_table
from fanout.daemon.core.text_table import (
    Alarm,
    TextTable,
    Window,
    bits_per_second,
    chosen,
    drops,
    more,
    per_second,
    size,
)
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.receiving.dedup import SenderCounts
from fanout.receiver.engine import ReceiverStats
from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.stats import IngressStats, PodStats, RelayStats
from fanout.report import DropReason
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


def test_a_window_holds_against_what_was_a_second_ago() -> None:
    window: Window[int] = Window()
    assert window.add(10.0, 0) == (0, 0.0)
    for tenths in range(1, 50):
        before, seconds = window.add(10.0 + tenths / 10, tenths)
        assert before == tenths - round(seconds * 10)
        assert seconds == pytest.approx(min(tenths / 10, 1.0), abs=0.101)
    before, seconds = window.add(100.0, 7)
    assert (before, round(seconds, 1)) == (49, 85.1), "after a pause, over all of it"


@given(st.lists(st.floats(0, 3), min_size=1, max_size=50))
def test_a_window_finds_the_youngest_of_those_a_second_old(steps: list[float]) -> None:
    window: Window[float] = Window()
    times: list[float] = []
    now = 0.0
    for step in steps:
        now += step
        times.append(now)
        expected = max((then for then in times if now - then >= 1.0), default=times[0])
        assert window.add(now, now) == (expected, now - expected)


def test_rates() -> None:
    assert per_second(5, 5, 0.0) == bits_per_second(0, 9, 0.0) == "-"
    assert [per_second(0, count, 2.0) for count in (0, 1, 30, 2_400_000)] == ["0", "0.5", "15", "1,200,000"]
    assert per_second(100, 40, 2.0) == "20", "it began again"
    assert [bits_per_second(0, count, 1.0) for count in (0, 3, 1_000, 12_500_000, 125_000_000, 2 * 10**11)] == [
        "0 bit/s", "24 bit/s", "8.0 kbit/s", "100 Mbit/s", "1.0 Gbit/s", "1.6 Tbit/s",
    ]  # fmt: skip
    assert [size(count) for count in (0, 999, 1000, 99_949, 99_950, 1_000_000, 10**16)] == [
        "0 B", "999 B", "1.0 kB", "99.9 kB", "100 kB", "1.0 MB", "10,000.0 TB",
    ]  # fmt: skip
    assert drops({RelayDrop.OWN: 0}) == drops({}) == "0"
    assert drops({RelayDrop.OWN: 3, RelayDrop.KERNEL_BUFFER: 1200, RelayDrop.LOOP: 3}) == Alarm(
        "1,200 kernel_buffer, 3 loop, 3 own"
    )


def test_those_in_trouble_are_shown_where_there_is_no_room_for_all() -> None:
    assert chosen([0, 1, 0, 2], 4, bool) == [0, 1, 0, 2]
    assert chosen([0, 1, 0, 2], 3, bool) == [1, 2, 0]
    assert chosen([0, 1, 0, 2], -1, bool) == []
    assert [more(count, "pod", "pods") for count in (0, 1, 2000)] == ["", "and 1 more pod", "and 2,000 more pods"]


def test_a_narrow_table_has_fewer_columns() -> None:
    whole = TextTable(("NAME", "OF"), ("RATE", "DROPPED"), [("a" * 10, "b", "1", "0")], dispensable=("RATE", "OF"))
    assert whole.within(29) == whole
    assert whole.within(28) == whole._replace(numbers=("DROPPED",), rows=[("a" * 10, "b", "0")])
    assert whole.within(1) == whole._replace(texts=("NAME",), numbers=("DROPPED",), rows=[("a" * 10, "0")])


def relayed(datagrams: int, pods: int, sent: int, **changes: int) -> RelayStats:
    return RelayStats(
        [
            IngressStats(URL, "headless-udp", None, datagrams, 200 * datagrams, datagrams, {RelayDrop.OWN: 0}),
            IngressStats("udp://:5004", "cameras", "interface eth2 is not there", dropped={RelayDrop.LOOP: 4}),
        ],
        [PodStats(f"10.0.0.{number}", "headless-udp", sent, 200 * sent) for number in range(1, pods + 1)],
    )


def test_the_relays_table_says_what_came_and_what_went_to_each_pod() -> None:
    before, after = relayed(1000, 2, 1000), relayed(3000, 3, 2500)
    after.pods[1].dropped[DropReason.NO_BUFFER] = 7
    after.pods[2].refused = 12
    ingresses, pods = relay_table.tables(before, after, 2.0, 20)
    assert ingresses.texts + ingresses.numbers == (
        "INGRESS", "TO", "STATE", "DATAGRAMS/S", "RATE", "BYTES", "DROPPED",
    )  # fmt: skip
    assert ingresses.rows == [
        (URL, "headless-udp", "listening", "1,000", "1.6 Mbit/s", "600 kB", "0"),
        ("udp://:5004", "cameras", "waiting", "0", "0 bit/s", "0 B", "4 loop"),
    ]
    assert isinstance(ingresses.rows[1][2], Alarm)
    assert pods.texts + pods.numbers == ("POD", "OF", "COPIES/S", "RATE", "BYTES", "REFUSED", "DROPPED")
    assert pods.rows == [
        ("10.0.0.1", "headless-udp", "750", "1.2 Mbit/s", "500 kB", "0", "0"),
        ("10.0.0.2", "headless-udp", "750", "1.2 Mbit/s", "500 kB", "0", "7 no_buffer"),
        ("10.0.0.3", "headless-udp", "1,250", "2.0 Mbit/s", "500 kB", "12", "0"),
    ]
    assert (ingresses.more, pods.more) == ("interface eth2 is not there", "")


def test_the_relays_table_has_as_many_rows_as_there_is_room_for() -> None:
    after = relayed(0, 4000, 0)
    after.pods[3999].refused = 1
    for room in (2, 3, 10, 30):
        ingresses, pods = relay_table.tables(after, after, 0.0, room)
        assert len(ingresses.rows) + len(pods.rows) == room
        assert pods.rows[0][0] == "10.0.0.4000"
        assert pods.more == f"and {4000 - len(pods.rows):,} more pods"
    many = RelayStats([IngressStats(f"udp://:{port}", "x") for port in range(1, 101)], [PodStats("10.0.0.1", "x")])
    ingresses, pods = relay_table.tables(many, many, 0.0, 20)
    assert (len(ingresses.rows), ingresses.more, len(pods.rows)) == (19, "and 81 more ingresses", 1)


def test_a_long_list_of_endpoints_takes_no_more_room_than_a_name() -> None:
    service = ",".join(f"10.0.0.{number}" for number in range(200))
    one = RelayStats([IngressStats(URL, service)], [PodStats("10.0.0.1", service)])
    for table in relay_table.tables(one, one, 0.0, 20):
        assert "10.0.0.0,10.0.0.1,10.0.0.2,10.0.0.3,10.…" in table.rows[0]


def test_the_receivers_table_says_what_came_of_whom() -> None:
    before = ReceiverStats(datagrams=100, bytes=1000)
    after = ReceiverStats(datagrams=300, bytes=26_000, queue_depth=9, kernel_drops=5, refused={ReceiveDrop.UNSEALED: 6})
    (port,) = receiver_table.tables("[::]:12000", before, after, 1.0, [], 20)
    assert port.rows == [("[::]:12000", "200", "200 kbit/s", "300", "26.0 kB", "9", "6 unsealed, 5 kernel_buffer")]
    senders = [SenderCounts(f"{number:016x}", number % 2 == 0, 100 + number, 0, 0, 0) for number in range(20)]
    senders[7] = SenderCounts(f"{7:016x}", True, 1, 5, 5, 0)
    senders[9] = SenderCounts(f"{9:016x}", True, 1, 5, 2, 4)
    _, of = receiver_table.tables("[::]:12000", before, after, 1.0, senders, 20)
    assert of.texts + of.numbers == ("SENDER", "SEALED", "MESSAGES", "SKIPPED", "REORDERED", "DUPLICATES")
    assert of.rows[0] == (f"{9:016x}", "yes", "1", "5", "2", "4")
    assert [row[2] for row in of.rows[1:]] == [f"{100 + number}" for number in range(19, 10, -1)]
    assert of.more == "and 10 more senders"


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
