"""`fanout send --confirm` as a process, to receivers and to sockets that do not answer."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fanout.cli.confirm import Asking, send_confirmed
from fanout.cli.message import limit_of
from fanout.cli.options import DATAGRAM_LEAST, DATAGRAM_MOST
from fanout.cli.receipts import PodTally, Tally, lines, pod_line
from fanout.cli.stream import Stream
from fanout.cli.target import find_target
from fanout.cli.waiting import Live, Watch
from fanout.delivery.receipt import Confirmation, Receipt, ReceiptStatus
from fanout.framing import check_max_datagram
from fanout.model import Endpoint, Message
from fanout.receiver import Receiver
from fanout.sender import Sender
from fanout.testing import ScriptedResolver
from tests.support.cli import FANOUT, environment, fanout, receiving, running
from tests.support.pods import Pod, literals

HERE = Endpoint("10.0.0.7", 12000)


class Receiving:
    """A receiver that serves in a thread, and keeps what it handles."""

    def __init__(self, handler: Callable[[Message], object] | None = None, **settings: str) -> None:
        self.payloads: list[bytes] = []
        self._handler = handler
        self.receiver = Receiver(0, host="127.0.0.1", key_file=settings.get("key_file")).open()
        self._thread = threading.Thread(target=self.receiver.serve, args=(self._handle,))
        self._thread.start()

    def _handle(self, message: Message) -> object:
        self.payloads.append(message.payload)
        return None if self._handler is None else self._handler(message)

    @property
    def endpoint(self) -> str:
        return str(self.receiver.address)

    def close(self) -> None:
        self.receiver.stop()
        self._thread.join()
        self.receiver.close()


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiving]]:
    with ExitStack() as stack:

        def make(handler: Callable[[Message], object] | None = None, **settings: str) -> Receiving:
            made = Receiving(handler, **settings)
            stack.callback(made.close)
            return made

        yield make


def boom(message: Message) -> None:
    raise ValueError("no such cache")


def test_each_pod_says_what_became_of_it(
    receive: Callable[..., Receiving], pods: Callable[..., list[Pod]], closed_port: int
) -> None:
    well, broken, (mute,) = receive(), receive(boom), pods(1)
    service = f"{well.endpoint},{broken.endpoint},{mute.endpoint},127.0.0.1:{closed_port}"
    run = fanout("send", "-s", service, "-m", "reload", "--confirm", "--timeout", "0.8")
    assert (run.code, run.err) == (4, "")
    *lines, hint, last = run.out.splitlines()
    first, second, fourth, third = sorted(lines)
    assert re.fullmatch(rf"confirmed by {well.endpoint} in [\d.]+ ms(.*tries\))?", first)
    assert second == f"failed at {broken.endpoint}: ValueError: no such cache"
    assert re.fullmatch(rf"silent: {mute.endpoint} did not answer in 0\.\d+ s \(\d+ tries\)", third)
    assert fourth.startswith(f"refused: 127.0.0.1:{closed_port}: nothing listens on that port there")
    assert hint.startswith("nothing came from it: ")
    assert last.startswith("sent 1 message (6 bytes) to 4 endpoints: 1 confirmed, 1 failed, 1 refused, 1 silent, in 0.")
    assert (well.payloads, broken.payloads) == ([b"reload"], [b"reload"])


def test_all_confirmed_is_exit_code_0_at_once(receive: Callable[..., Receiving]) -> None:
    one, other = receive(), receive()
    service = f"{one.endpoint},{other.endpoint}"
    started = time.monotonic()
    run = fanout("send", "-s", service, "-m", "x", "--confirm", "--timeout", "30", "-o", "json")
    assert time.monotonic() - started < 10
    report = run.json
    assert run.code == 0
    endpoints = report.pop("endpoints")
    assert all(pod.pop("rtt") > 0 and pod.pop("tries") >= 1 for pod in endpoints)
    assert {pod.pop("endpoint") for pod in endpoints} == {one.endpoint, other.endpoint}
    assert endpoints == [{"status": "confirmed", "reason": None, "joined": False, "messages": {"confirmed": 1}}] * 2
    assert report.pop("elapsed") > 0
    assert report.pop("answer_age") >= 0
    assert report == {
        "service": service, "messages": 1, "bytes": 1, "stale": False, "complete": True, "confirmed": 2, "failed": 0,
        "refused": 0, "dropped": 0, "silent": 0, "left": 0, "joined": 0,
    }  # fmt: skip
    assert fanout("send", "-s", service, "-m", "x", "--confirm", "-q") == (0, "", "")
    assert (
        fanout("send", "-s", one.endpoint, "-m", "x", "--confirm")
        .out.splitlines()[1]
        .startswith("sent 1 message (1 byte) to 1 endpoint: confirmed, in ")
    )


def test_a_busy_handler_is_named(tmp_path: Path) -> None:
    with receiving(tmp_path, "--exec", "sleep 30") as (_, endpoint):
        run = fanout("send", "-s", endpoint, "-m", "x", "--confirm", "--timeout", "0.6")
    assert run.code == 4
    assert "tries): it has the message, and its handler has not returned" in run.out.splitlines()[0]
    assert len(run.out.splitlines()) == 2


def test_retries_bound_the_tries(pods: Callable[..., list[Pod]]) -> None:
    (mute,) = pods(1)
    waiting = ("--retries", "0", "--timeout", "1", "-o", "json")
    run = fanout("send", "-s", literals([mute]), "-m", "x", "--confirm", *waiting)
    assert (run.code, run.json["endpoints"][0]["tries"], run.json["silent"]) == (4, 1, 1)
    assert run.json["elapsed"] >= 1, "an answer may still come"
    assert len(mute.waiting()) == 1


def test_a_stream_is_confirmed_message_by_message(
    receive: Callable[..., Receiving], pods: Callable[..., list[Pod]]
) -> None:
    well, (mute,) = receive(), pods(1)
    run = fanout("send", "-s", well.endpoint, "--lines", "--confirm", stdin=b"a\n\nbb\nc")
    assert run.code == 0
    assert run.out.splitlines()[0].startswith(f"confirmed 3 messages by {well.endpoint} in ")
    assert run.out.endswith("; 1 empty line left out\n")
    assert well.payloads == [b"a", b"bb", b"c"]
    arguments = ("-m", "x", "--count", "3", "--confirm", "--timeout", "0.1", "--interval", "0.2")
    run = fanout("send", "-s", f"{well.endpoint},{mute.endpoint}", *arguments)
    assert run.code == 4
    assert f"confirmed 0 of 3 messages by {mute.endpoint}; 3 silent" in run.out
    assert "sent 3 messages (3 bytes in all) to 2 endpoints: 1 confirmed, 1 silent" in run.out
    report = fanout("send", "-s", well.endpoint, *arguments, "-o", "json").json
    assert report["endpoints"][0]["messages"] == {"confirmed": 3}
    assert 0.4 <= report["elapsed"] < 3


def test_no_line_is_no_message() -> None:
    run = fanout("send", "-s", "127.0.0.1:9", "--lines", "--confirm", stdin=b"")
    assert (run.code, run.out) == (0, "sent nothing: no message came\n")


def test_large_messages_go_in_fragments(receive: Callable[..., Receiving], tmp_path: Path) -> None:
    well = receive()
    large = os.urandom(300_000)
    (tmp_path / "large").write_bytes(large)
    sentence = fanout("send", "-s", well.endpoint, "--file", str(tmp_path / "large")).assert_one_sentence(2)
    assert "has more than the 65,507 bytes that a UDP datagram carries" in sentence
    assert "--confirm" in sentence
    run = fanout("send", "-s", well.endpoint, "--file", str(tmp_path / "large"), "--confirm")
    assert run.code == 0
    # The round trip of the last fragments would be taken for what the message took.
    assert re.fullmatch(rf"confirmed by {well.endpoint}( \(\d+ tries\))?", run.out.splitlines()[0])
    assert fanout("send", "-s", well.endpoint, "-m", "-", "--confirm", "--max-datagram", "9000", stdin=large).code == 0
    assert well.payloads == [large, large]
    too_large = fanout("send", "-s", well.endpoint, "--confirm", "--file", "/dev/zero").assert_one_sentence(2)
    assert "/dev/zero has more than the 16,777,216 bytes" in too_large


def test_sealed_messages_are_confirmed_to_who_has_the_key(receive: Callable[..., Receiving], tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    assert fanout("keygen", key).code == 0
    well = receive(key_file=key)
    assert fanout("send", "-s", well.endpoint, "-m", "x", "--confirm", "--key-file", key).code == 0
    stranger = ("send", "-s", well.endpoint, "-m", "x", "--confirm", "--timeout", "0.3")
    assert fanout(*stranger).code == 4
    assert fanout(*stranger, "--key-file", key, "--cluster", "another").code == 4
    assert well.payloads == [b"x"]


def test_numbered_streams_are_counted(receive: Callable[..., Receiving]) -> None:
    well = receive()
    assert fanout("send", "-s", well.endpoint, "-m", "x", "--count", "5", "--numbered").code == 0
    deadline = time.monotonic() + 5
    while len(well.payloads) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (well.receiver.stats.lost, well.payloads) == (0, [b"x"] * 5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reports_what_is_known(
    receive: Callable[..., Receiving], pods: Callable[..., list[Pod]], tmp_path: Path, number: signal.Signals
) -> None:
    well, (mute,) = receive(), pods(1)
    service = f"{well.endpoint},{mute.endpoint}"
    with running(tmp_path, "send", "-s", service, "-m", "x", "--confirm", "--timeout", "60") as sender:
        mute.receive()
        deadline = time.monotonic() + 5
        while not well.payloads:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
        run = sender.stop(number)
    assert (run.code, run.err) == (130, "")
    assert f"confirmed by {well.endpoint}" in run.out
    assert f"silent: {mute.endpoint}" in run.out
    assert run.out.endswith("; interrupted\n")


def test_an_interrupt_makes_nothing_up(pods: Callable[..., list[Pod]], tmp_path: Path) -> None:
    (mute,) = pods(1)
    with running(
        tmp_path, "send", "-s", str(mute.endpoint), "-m", "x", "--confirm", "--timeout", "60", "-o", "json"
    ) as sender:
        mute.receive()
        time.sleep(0.2)
        run = sender.stop(signal.SIGINT)
    report = run.json
    assert (run.code, report["messages"], report["silent"], report["complete"]) == (130, 1, 1, False)
    assert (report["answer_age"], report["stale"]) == (None, None)


@pytest.mark.parametrize("output", ["text", "json"])
def test_an_interrupt_before_pods_are_known_says_so(
    pods: Callable[..., list[Pod]], tmp_path: Path, output: str
) -> None:
    (nameserver,) = pods(1)
    arguments = ("-s", "pods.example.", "--nameserver", str(nameserver.endpoint), "-m", "x", "-o", output)
    with running(tmp_path, "send", "--confirm", *arguments) as sender:
        nameserver.receive()
        time.sleep(0.1)
        run = sender.stop(signal.SIGINT)
    assert (run.code, run.err) == (130, "")
    if output == "text":
        assert run.out == "interrupted: nothing is known of any pod\n"
    else:
        assert (run.json["messages"], run.json["endpoints"], run.json["complete"]) == (0, [], False)
        assert run.json["answer_age"] is None


def test_a_terminal_shows_who_is_waited_for(receive: Callable[..., Receiving], pods: Callable[..., list[Pod]]) -> None:
    well, (mute,) = receive(), pods(1)
    terminal, its_other_end = pty.openpty()
    service = f"{well.endpoint},{mute.endpoint}"
    process = subprocess.Popen(
        [*FANOUT, "send", "-s", service, "-m", "x", "--confirm", "--timeout", "1.5"],
        stdout=subprocess.PIPE, stderr=its_other_end, env=environment(TERM="xterm", COLUMNS="100", LINES="20"),
    )  # fmt: skip
    os.close(its_other_end)
    shown = b""
    try:
        while block := os.read(terminal, 4096):
            shown += block
    except OSError:
        pass  # a terminal ends with an error
    out, _ = process.communicate(timeout=10)
    os.close(terminal)
    assert b"1 of 2 endpoints confirmed" in shown
    assert b"waiting" in shown
    assert process.returncode == 4
    assert out.startswith(b"confirmed by ")


def receipts(count: int, status: ReceiptStatus) -> Iterator[Receipt]:
    for number in range(count):
        yield Receipt(Endpoint(f"10.0.{status is ReceiptStatus.SILENT:d}.{number}", 12000), status, 0.001, 1)


@pytest.mark.parametrize(("confirmed", "silent", "height", "rows"), [(3, 2, 40, 6), (90, 4, 40, 5), (9, 90, 12, 11)])
def test_the_display_is_bounded_by_the_terminal(confirmed: int, silent: int, height: int, rows: int) -> None:
    watch = Watch()
    watch.begin()
    for receipt in (*receipts(confirmed, ReceiptStatus.CONFIRMED), *receipts(silent, ReceiptStatus.SILENT)):
        watch.note(receipt)
    target = find_target("10.0.0.1", "12000", "any", None, False)
    shown = Live(watch, target, 2.0, 1).picture(60, height).plain.splitlines()
    assert len(shown) == rows <= height
    assert shown[0].startswith(f"{confirmed} of {confirmed + silent} endpoints confirmed")
    assert max(map(len, shown)) <= 60
    assert sum("waiting" in line for line in shown) == min(silent, height - 3)


def test_pods_that_join_leave_and_fail_over_a_stream() -> None:
    tally = Tally()
    there = Receipt(HERE, ReceiptStatus.CONFIRMED, 0.002, 1)
    late = Endpoint("10.0.0.8", 12000)
    tally.add(Confirmation([there], 3, 0.002, 1.0, False))
    tally.add(Confirmation([there, Receipt(late, ReceiptStatus.FAILED, 0.1, 2, "no room")], 3, 0.1, 1.0, True))
    tally.add(
        Confirmation(
            [Receipt(HERE, ReceiptStatus.LEFT), Receipt(late, ReceiptStatus.CONFIRMED, 0.1, 1)], 3, 0.1, 1.0, True
        )
    )
    first, second = tally.pods
    assert (first.status, first.joined, first.messages, first.rtt) == (ReceiptStatus.LEFT, False, 3, 0.002)
    assert (second.status, second.joined, second.messages, second.reason) == (ReceiptStatus.FAILED, True, 2, "no room")
    assert (tally.messages, tally.size, tally.stale, tally.complete) == (3, 9, True, False)


@pytest.mark.parametrize(
    ("receipt", "line"),
    [
        (Receipt(HERE, ReceiptStatus.CONFIRMED, 0.0008, 2), "confirmed by 10.0.0.7:12000 in 0.80 ms (2 tries)"),
        (Receipt(HERE, ReceiptStatus.CONFIRMED, 0.0008, 1, joined=True), "... in 0.80 ms (joined meanwhile)"),
        (Receipt(HERE, ReceiptStatus.LEFT, None, 1), "left: 10.0.0.7:12000 did not answer (1 try), ... no more"),
        (Receipt(HERE, ReceiptStatus.DROPPED, None, 3, "odd"), "dropped: 10.0.0.7:12000: odd"),
        (Receipt(HERE, ReceiptStatus.DROPPED, None, 3, os.strerror(101)), "dropped: 10.0.0.7:12000: no route to ..."),
        (Receipt(HERE, ReceiptStatus.FAILED, 0.1, 3), "failed at 10.0.0.7:12000: it does not say why"),
    ],
)  # fmt: skip
def test_lines(receipt: Receipt, line: str) -> None:
    pod = PodTally(receipt.endpoint, receipt.joined)
    pod.add(receipt)
    said = re.sub(r"\x1b\[\d*m", "", pod_line(pod, 2.0))
    start, _, end = line.partition("...")
    assert said.startswith(start)
    assert said.endswith(end)


def test_no_time_is_told_of_what_was_cut() -> None:
    receipt = Receipt(HERE, ReceiptStatus.CONFIRMED, 0.0667, 2)
    tally = Tally()
    tally.add(Confirmation([receipt], 300_000, 0.9, 1.0, False), is_cut=True)
    assert pod_line(tally.pods[0], 0.9) == f"confirmed by {HERE} (2 tries)"
    watch = Watch()
    watch.begin(is_cut=True)
    watch.note(receipt)
    target = find_target("10.0.0.1", "12000", "any", None, False)
    assert Live(watch, target, 2.0, 1).picture(60, 40).plain.endswith(f"  {HERE}  confirmed, 2 tries")
    tally.add(Confirmation([receipt], 1, 0.9, 1.0, False))
    assert lines(tally) == [f"confirmed 2 messages by {HERE}"]


def test_an_outage_in_the_middle_of_a_stream_is_reported_with_what_was_confirmed(
    receive: Callable[..., Receiving], capsys: pytest.CaptureFixture[str]
) -> None:
    well = receive()
    target = find_target(well.endpoint, "12000", "any", None, False)
    stream = Stream(limit_of(framed=True))
    asking = Asking(1.0, None, 0.0, None, "json", quiet=False, live=False)

    def payloads() -> Iterator[bytes]:
        yield b"x"
        sender.close()
        yield b"y"

    with Sender("pods", resolver=ScriptedResolver(well.endpoint)) as sender, pytest.raises(Exception, match="closed"):
        send_confirmed(sender, target, payloads(), stream, asking)
    assert json.loads(capsys.readouterr().out)["messages"] == 1


def test_the_bounds_of_datagrams_are_those_of_the_wire_format() -> None:
    assert check_max_datagram(DATAGRAM_LEAST) == 256
    assert check_max_datagram(DATAGRAM_MOST) == 65_435
    for wrong in (DATAGRAM_LEAST - 1, DATAGRAM_MOST + 1):
        with pytest.raises(ValueError, match="max_datagram"):
            check_max_datagram(wrong)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--confirm", "--timeout", "0"], 2, "--timeout"),
        (["--confirm", "--timeout", "nan"], 2, "--timeout"),
        (["--confirm", "--timeout", "1e9"], 2, "--timeout"),
        (["--confirm", "--retries", "-1"], 2, "--retries"),
        (["--confirm", "--retries", "x"], 2, "--retries"),
        (["--confirm", "--bandwidth", "1M"], 2, "--rate or --interval"),
        (["--confirm", "--burst", "4"], 2, "--burst"),
        (["--confirm", "--settle", "1"], 2, "--settle"),
        (["--timeout", "1"], 2, "--confirm"),
        (["--retries", "1"], 2, "--confirm"),
        (["--max-datagram", "255"], 2, "--max-datagram"),
        (["--max-datagram", "65436"], 2, "--max-datagram"),
        (["--cluster", "prod"], 2, "--key-file"),
        (["--key-file", "/nonexistent/key"], 1, "/nonexistent/key"),
        (["--key-file", "/dev/null"], 1, "/dev/null"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], code: int, part: str) -> None:
    assert part in fanout("send", "-s", "127.0.0.1:9", "-m", "x", *arguments).assert_one_sentence(code)


def test_a_timeout_in_the_environment_is_for_those_who_wait(pods: Callable[..., list[Pod]]) -> None:
    assert fanout("send", "-s", literals(pods(1)), "-m", "x", FANOUT_TIMEOUT="5", FANOUT_CLUSTER="prod").code == 0
