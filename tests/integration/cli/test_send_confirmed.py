"""`fanout send --confirm` as a process, to receivers and to sockets that do not answer."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fanout.cli.confirm_progress import MessageInProgress
from fanout.cli.message_input import MessageStream, limit_of
from fanout.cli.options import PatienceOptions
from fanout.cli.send_confirmed import send_confirmed
from fanout.cli.send_options import PaceOptions, SendOptions
from fanout.cli.target import TargetOptions, find_target
from fanout.discovery.core.endpoints import Known
from fanout.discovery.refresher import Refresher
from fanout.model import Message
from fanout.protocol.sending.receipt import Receipt, ReceiptStatus
from fanout.receiver.sync import Receiver
from fanout.sender.sync import Sender
from fanout.testing import ScriptedResolver
from tests.support.cli import invoke, receiving
from tests.support.pods import Pod, literals
from tests.support.silent_pods import without_answers_of
from tests.support.terminal import terminal
from tests.support.waiting import until

PATIENT = ("--confirm", "--timeout", "3600")
"""Those who answer are waited for, however long they take."""


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
    receive: Callable[..., Receiving], pods: Callable[..., list[Pod]], refusing_port: int
) -> None:
    well, broken, (mute,) = receive(), receive(boom), pods(1)
    service = f"{well.endpoint},{broken.endpoint},{mute.endpoint},127.0.0.1:{refusing_port}"
    with without_answers_of(mute.endpoint, tries=2):
        run = invoke("send", "-s", service, "-m", "reload", *PATIENT)
    assert run.code == 4
    # The receivers are in this process: what they log is shown as well.
    assert all("handler_failed" in line for line in run.err.splitlines())
    *lines, hint, last = run.out.splitlines()
    first, second, fourth, third = sorted(lines)
    assert re.fullmatch(rf"confirmed by {well.endpoint} in [\d.]+ ms(.*tries\))?", first)
    assert second == f"failed at {broken.endpoint}: ValueError: no such cache"
    assert re.fullmatch(rf"silent: {mute.endpoint} did not answer in 3.6e\+03 s \(\d+ tries\)", third)
    assert fourth.startswith(f"refused: 127.0.0.1:{refusing_port}: nothing listens on that port there")
    assert hint.startswith("nothing came from it: ")
    assert last == ("sent 1 message (6 bytes) to 4 endpoints: 1 confirmed, 1 failed, 1 refused, 1 silent, in 3.6e+03 s")
    assert (well.payloads, broken.payloads) == ([b"reload"], [b"reload"])


def test_all_confirmed_is_exit_code_0_at_once(receive: Callable[..., Receiving]) -> None:
    """Or it would take an hour."""
    one, other = receive(), receive()
    service = f"{one.endpoint},{other.endpoint}"
    run = invoke("send", "-s", service, "-m", "x", *PATIENT, "-o", "json")
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
    assert invoke("send", "-s", service, "-m", "x", *PATIENT, "-q") == (0, "", "")
    assert (
        invoke("send", "-s", one.endpoint, "-m", "x", *PATIENT)
        .out.splitlines()[1]
        .startswith("sent 1 message (1 byte) to 1 endpoint: confirmed, in ")
    )


def test_a_busy_handler_is_named(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with receiving(tmp_path, "--exec", shlex.join(["cat", str(fifo)])) as (_, endpoint):
        with without_answers_of(endpoint, says="handler"):
            run = invoke("send", "-s", endpoint, "-m", "x", *PATIENT)
        fifo.write_bytes(b"the handler may return")
    assert run.code == 4
    assert "): it has the message, but its handler has not returned" in run.out.splitlines()[0]
    assert len(run.out.splitlines()) == 2


def test_retries_bound_the_tries(pods: Callable[..., list[Pod]]) -> None:
    (mute,) = pods(1)
    waiting = ("--retries", "0", "--timeout", "0.3", "-o", "json")
    run = invoke("send", "-s", literals([mute]), "-m", "x", "--confirm", *waiting)
    assert (run.code, run.json["endpoints"][0]["tries"], run.json["silent"]) == (4, 1, 1)
    assert run.json["elapsed"] >= 0.3, "an answer may still come"
    assert len(mute.waiting(1)) == 1


def test_a_stream_is_confirmed_message_by_message(
    receive: Callable[..., Receiving], pods: Callable[..., list[Pod]]
) -> None:
    well, (mute,) = receive(), pods(1)
    run = invoke("send", "-s", well.endpoint, "--lines", *PATIENT, stdin=b"a\n\nbb\nc")
    assert run.code == 0
    assert run.out.splitlines()[0].startswith(f"confirmed 3 messages by {well.endpoint} in ")
    assert run.out.endswith("; 1 empty line left out\n")
    assert well.payloads == [b"a", b"bb", b"c"]
    arguments = ("-m", "x", "--count", "3", *PATIENT, "--interval", "0.02")
    with without_answers_of(mute.endpoint):
        run = invoke("send", "-s", f"{well.endpoint},{mute.endpoint}", *arguments)
    assert run.code == 4
    assert f"confirmed 0 of 3 messages by {mute.endpoint}; 3 silent" in run.out
    assert "sent 3 messages (3 bytes in all) to 2 endpoints: 1 confirmed, 1 silent" in run.out
    report = invoke("send", "-s", well.endpoint, *arguments, "-o", "json").json
    assert report["endpoints"][0]["messages"] == {"confirmed": 3}
    assert report["elapsed"] >= 0.04


def test_no_line_is_no_message() -> None:
    run = invoke("send", "-s", "127.0.0.1:9", "--lines", "--confirm", stdin=b"")
    assert (run.code, run.out) == (0, "sent nothing: no message came\n")


def test_large_messages_go_in_fragments(receive: Callable[..., Receiving], tmp_path: Path) -> None:
    well = receive()
    large = os.urandom(300_000)
    (tmp_path / "large").write_bytes(large)
    sentence = invoke("send", "-s", well.endpoint, "--file", str(tmp_path / "large")).assert_one_sentence(2)
    assert "has more than the 65,507 bytes that a UDP datagram carries" in sentence
    assert "--confirm" in sentence
    run = invoke("send", "-s", well.endpoint, "--file", str(tmp_path / "large"), *PATIENT)
    assert run.code == 0
    # The round trip of the last fragments would be taken for what the message took.
    assert re.fullmatch(rf"confirmed by {well.endpoint}( \(\d+ tries\))?", run.out.splitlines()[0])
    assert invoke("send", "-s", well.endpoint, "-m", "-", *PATIENT, "--max-datagram", "9000", stdin=large).code == 0
    assert well.payloads == [large, large]
    too_large = invoke("send", "-s", well.endpoint, "--confirm", "--file", "/dev/zero").assert_one_sentence(2)
    assert "/dev/zero has more than the 16,777,216 bytes" in too_large


def test_sealed_messages_are_confirmed_to_who_has_the_key(receive: Callable[..., Receiving], key_file: str) -> None:
    well = receive(key_file=key_file)
    assert invoke("send", "-s", well.endpoint, "-m", "x", *PATIENT, "--key-file", key_file).code == 0
    stranger = ("send", "-s", well.endpoint, "-m", "x", "--confirm", "--timeout", "0.05")
    assert invoke(*stranger).code == 4
    assert invoke(*stranger, "--key-file", key_file, "--cluster", "another").code == 4
    until(lambda: len(well.receiver.stats.refused) == 2)
    assert well.payloads == [b"x"]


def test_numbered_streams_are_counted(receive: Callable[..., Receiving]) -> None:
    well = receive()
    assert invoke("send", "-s", well.endpoint, "-m", "x", "--count", "5", "--numbered").code == 0
    until(lambda: len(well.payloads) == 5)
    assert (well.receiver.stats.lost, well.payloads) == (0, [b"x"] * 5)


def interrupt_when(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, is_time: Callable[[dict[str, ReceiptStatus]], bool]
) -> None:
    """Send this process a signal once that is known of the pods."""
    note = MessageInProgress.note

    def note_and_interrupt(watch: MessageInProgress, receipt: Receipt) -> None:
        note(watch, receipt)
        if is_time({str(endpoint): known.status for endpoint, known in watch.receipts.items()}):
            signal.raise_signal(number)

    monkeypatch.setattr(MessageInProgress, "note", note_and_interrupt)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reports_what_is_known(
    receive: Callable[..., Receiving],
    pods: Callable[..., list[Pod]],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    well, (mute,) = receive(), pods(1)
    known = {well.endpoint: ReceiptStatus.CONFIRMED, str(mute.endpoint): ReceiptStatus.SILENT}
    interrupt_when(monkeypatch, number, lambda statuses: statuses == known)
    run = invoke("send", "-s", f"{well.endpoint},{mute.endpoint}", "-m", "x", *PATIENT)
    assert (run.code, run.err) == (130, "")
    assert f"confirmed by {well.endpoint}" in run.out
    assert f"silent: {mute.endpoint}" in run.out
    assert run.out.endswith("; interrupted\n")


def test_an_interrupt_makes_nothing_up(pods: Callable[..., list[Pod]], monkeypatch: pytest.MonkeyPatch) -> None:
    (mute,) = pods(1)
    interrupt_when(monkeypatch, signal.SIGINT, bool)
    run = invoke("send", "-s", str(mute.endpoint), "-m", "x", *PATIENT, "-o", "json")
    report = run.json
    assert (run.code, report["messages"], report["silent"], report["complete"]) == (130, 1, 1, False)
    assert (report["answer_age"], report["stale"]) == (None, None)


@pytest.mark.parametrize("output", ["text", "json"])
def test_an_interrupt_before_pods_are_known_says_so(
    refusing_nameserver: str, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    endpoints = Refresher.endpoints

    def interrupted(refresher: Refresher) -> Known:
        signal.raise_signal(signal.SIGINT)
        return endpoints(refresher)

    monkeypatch.setattr(Refresher, "endpoints", interrupted)
    run = invoke("send", *PATIENT, "-s", "pods.example.", "--nameserver", refusing_nameserver, "-m", "x", "-o", output)
    assert (run.code, run.err) == (130, "")
    if output == "text":
        assert run.out == "interrupted: nothing is known about any pod\n"
    else:
        assert (run.json["messages"], run.json["endpoints"], run.json["complete"]) == (0, [], False)
        assert run.json["answer_age"] is None


def test_a_terminal_shows_who_is_waited_for(receive: Callable[..., Receiving], pods: Callable[..., list[Pod]]) -> None:
    well, (mute,) = receive(), pods(1)
    service = f"{well.endpoint},{mute.endpoint}"
    with terminal("send", "-s", service, "-m", "x", *PATIENT, size=(20, 100)) as opened:
        opened.wait_until(lambda: b"1 of 2 endpoints confirmed" in opened.printed and b"waiting" in opened.printed)
        assert opened.stop(signal.SIGINT) == 130
        assert opened.lines[0].startswith("confirmed by ")


def test_an_outage_in_the_middle_of_a_stream_is_reported_with_what_was_confirmed(
    receive: Callable[..., Receiving], capsys: pytest.CaptureFixture[str]
) -> None:
    well = receive()
    target = find_target(TargetOptions(service=well.endpoint))
    stream = MessageStream(limit_of(framed=True))
    options = SendOptions._make([None] * len(SendOptions._fields))._replace(
        patience=PatienceOptions(3600.0, None), pace=PaceOptions(None, None, None, 1, 0.0), output="json"
    )

    def payloads() -> Iterator[bytes]:
        yield b"x"
        sender.close()
        yield b"y"

    with Sender("pods", resolver=ScriptedResolver(well.endpoint)) as sender, pytest.raises(Exception, match="closed"):
        send_confirmed(sender, target, payloads(), stream, options)
    assert json.loads(capsys.readouterr().out)["messages"] == 1


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
    assert part in invoke("send", "-s", "127.0.0.1:9", "-m", "x", *arguments).assert_one_sentence(code)


def test_a_timeout_in_the_environment_is_for_those_who_wait(pods: Callable[..., list[Pod]]) -> None:
    assert invoke("send", "-s", literals(pods(1)), "-m", "x", FANOUT_TIMEOUT="5", FANOUT_CLUSTER="prod").code == 0
