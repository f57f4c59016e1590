"""`fanout send`: what it sends and says, in the tests' process; and how it is interrupted, as a process of its own."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from fanout.protocol.sending.pacer import Pacer
from tests.support.cli import FANOUT, Run, call, environment, invoke, running
from tests.support.clock import ScriptedClock
from tests.support.pods import Pod, literals
from tests.support.terminal import Screen
from tests.support.waiting import until


def refused(*arguments: str) -> Run:
    """Send until ICMP has told in time that a pod refuses."""

    def run() -> Run | None:
        run = invoke("send", "-m", "x", *arguments)
        return run if "refused: " in run.out or '"ECONNREFUSED"' in run.out else None

    return until(run)


def test_one_line_a_pod_then_a_summary(pods: Callable[..., list[Pod]]) -> None:
    made = pods(2)
    run = invoke("send", "-s", literals(made), "-m", "hé")
    assert (run.code, run.err) == (0, "")
    assert run.out.splitlines() == [
        f"sent message to {made[0].endpoint}",
        f"sent message to {made[1].endpoint}",
        "sent 1 message (3 bytes) to 2 endpoints",
    ]
    assert [pod.waiting(1) for pod in made] == [["hé".encode()]] * 2


def test_json_is_one_object(pods: Callable[..., list[Pod]]) -> None:
    (pod,) = pods(1)
    report = invoke("send", "-s", str(pod.endpoint), "-m", "x", "-o", "json").json
    assert report.pop("elapsed") > 0
    assert report.pop("answer_age") >= 0
    assert report == {
        "service": str(pod.endpoint), "messages": 1, "bytes": 1, "stale": False, "sent": 1, "refused": 0, "dropped": 0,
        "endpoints": [
            {"endpoint": str(pod.endpoint), "status": "sent", "sent": 1, "refused": 0, "dropped": 0, "reason": None,
             "errno": None}
        ],
    }  # fmt: skip


def test_some_refused_is_exit_code_4_with_the_reason(pods: Callable[..., list[Pod]], refusing_port: int) -> None:
    (pod,) = pods(1)
    service = f"{pod.endpoint},127.0.0.1:{refusing_port},127.255.255.255:9"
    run = refused("-s", service)
    assert run.code == 4
    assert run.out.splitlines()[1:] == [
        f"sent message to {pod.endpoint}",
        "dropped: 127.255.255.255:9: a broadcast address, or forbidden here: name the pods' own addresses (EACCES)",
        "sent 1 message (1 byte) to 1 of 3 endpoints; 1 refused; 1 dropped",
    ]
    assert f"refused: 127.0.0.1:{refusing_port}: nothing listens on that port there" in run.out
    outcomes = refused("-s", service, "-o", "json").json["endpoints"]
    assert sorted((pod["status"], pod["reason"], pod["errno"]) for pod in outcomes) == [
        ("dropped", "not_permitted", "EACCES"), ("refused", None, "ECONNREFUSED"), ("sent", None, None),
    ]  # fmt: skip


def test_quiet_says_nothing_and_still_tells_by_its_exit_code(
    pods: Callable[..., list[Pod]], refusing_port: int
) -> None:
    assert invoke("send", "-q", "-s", literals(pods(1)), "-m", "x") == (0, "", "")
    quietly = ("send", "-q", "-s", f"127.0.0.1:{refusing_port}", "-m", "x")
    assert until(lambda: run if (run := invoke(*quietly)).code else None) == (4, "", "")


def test_where_messages_come_from(pods: Callable[..., list[Pod]], tmp_path: Path) -> None:
    (pod,) = pods(1)
    service = str(pod.endpoint)
    binary = bytes(range(256))
    (tmp_path / "message").write_bytes(binary)
    assert invoke("send", "-s", service, "-m", "-", stdin=binary).code == 0
    assert invoke("send", "-s", service, "--file", str(tmp_path / "message")).code == 0
    assert invoke("send", "-s", service, "--lines", stdin=b"a\r\n\xff\n\nlast").out.endswith(
        "sent 3 messages (7 bytes in all) to 1 endpoint; 1 empty line left out\n"
    )
    assert invoke("send", "-s", service, "-m", "x", "--count", "3").code == 0
    assert invoke("send", "-s", service, "-m", "", "--allow-empty").code == 0
    assert invoke("send", "-s", service, "--lines", "--allow-empty", stdin=b"\n").code == 0
    assert pod.waiting(10) == [binary, binary, b"a\r", b"\xff", b"last", b"x", b"x", b"x", b"", b""]


def test_options_from_the_environment(pods: Callable[..., list[Pod]]) -> None:
    (pod,) = pods(1)
    run = invoke(
        "send", FANOUT_SERVICE=pod.endpoint.host, FANOUT_PORT=str(pod.endpoint.port), FANOUT_MESSAGE="x",
        FANOUT_OUTPUT="json", FANOUT_COUNT="2",
    )  # fmt: skip
    assert run.json["messages"] == 2
    assert pod.waiting(2) == [b"x", b"x"]


def test_dry_run_sends_nothing(pods: Callable[..., list[Pod]]) -> None:
    (pod,) = pods(1)
    run = invoke("send", "-s", str(pod.endpoint), "-m", "x", "--dry-run")
    assert run.out.splitlines()[0] == f"would send message to {pod.endpoint}"
    assert run.code == 0
    json = invoke("send", "-s", str(pod.endpoint), "-m", "x", "--dry-run", "-o", "json").json
    assert json["endpoints"] == [{"endpoint": str(pod.endpoint)}]
    assert pod.waiting() == []


def test_rate_and_interval_pace_the_stream(pods: Callable[..., list[Pod]]) -> None:
    service = literals(pods(1))
    for pace, seconds in (
        (("--count", "4", "--interval", "0.01"), 0.03),
        (("--count", "51", "--rate", "1000"), 0.05),
        (("--count", "51", "--bandwidth", "8k"), 0.05),
        (("--count", "51", "--bandwidth", "1M", "--rate", "1000", "--burst", "1"), 0.05),
    ):
        assert invoke("send", "-s", service, "-m", "x", *pace, "-o", "json").json["elapsed"] >= seconds


@pytest.mark.parametrize(
    ("number", "interval", "received"),
    [(signal.SIGINT, "0.1", 3), (signal.SIGTERM, "3600", 1)],
    ids=["between messages", "in a long wait"],
)
def test_an_interrupted_stream_reports_what_was_sent(
    pods: Callable[..., list[Pod]], tmp_path: Path, number: signal.Signals, interval: str, received: int
) -> None:
    (pod,) = pods(1)
    arguments = ("send", "-s", str(pod.endpoint), "-m", "x", "--count", "1000000", "--interval", interval)
    with running(tmp_path, *arguments) as sender:
        for _ in range(received):
            assert pod.receive() == b"x"
        run = sender.stop(number)
    assert run.code == 130
    assert run.err == ""
    says = re.fullmatch(rf"sent (\d+ messages|message) to {pod.endpoint}", run.out.splitlines()[0])
    assert says is not None
    sent = 1 if says[1] == "message" else int(says[1].split()[0])
    assert sent >= received
    assert pod.waiting(sent - received) == [b"x"] * (sent - received)


def test_an_interrupt_while_standard_input_is_silent(pods: Callable[..., list[Pod]], tmp_path: Path) -> None:
    (pod,) = pods(1)
    reader, writer = os.pipe()
    with running(tmp_path, "send", "-s", str(pod.endpoint), "--lines", stdin=reader) as sender:
        os.write(writer, b"one\n")
        assert pod.receive() == b"one"
        run = sender.stop(signal.SIGINT)
    os.close(reader)
    os.close(writer)
    assert run.code == 130
    assert "sent 1 message (3 bytes) to 1 endpoint" in run.out


def test_an_oversized_line_ends_the_stream_and_what_came_before_is_reported(pods: Callable[..., list[Pod]]) -> None:
    (pod,) = pods(1)
    run = invoke("send", "-s", str(pod.endpoint), "--lines", stdin=b"one\n" + b"x" * 65_507 + b"\n" + b"y" * 65_508)
    assert "line 3 has more than the 65,507 bytes" in run.assert_one_sentence(2)
    assert "sent 2 messages" in run.out
    assert [len(payload) for payload in pod.waiting(2)] == [3, 65_507]


def test_a_long_run_shows_progress_on_a_terminal(pods: Callable[..., list[Pod]]) -> None:
    out = io.StringIO()
    with Screen() as screen:
        arguments = ["send", "-s", literals(pods(1)), "-m", "x", "--count", "50"]
        assert call(arguments, out, screen.file, variables=screen.variables) == 0
    assert "50/50" in screen.text
    assert "100%" in screen.text
    assert out.getvalue().startswith("sent 50 messages to ")


def test_no_color(refusing_port: int) -> None:
    def on_a_terminal(**variables: str) -> str:
        with Screen() as screen:
            arguments = ["send", "-s", f"127.0.0.1:{refusing_port}", "-m", "x"]
            call(arguments, screen.file, io.StringIO(), variables={**screen.variables, **variables})
        return screen.text

    assert "\x1b[31m" in until(lambda: text if "refused: " in (text := on_a_terminal()) else None)
    assert "\x1b[" not in until(lambda: text if "refused: " in (text := on_a_terminal(NO_COLOR="1")) else None)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["-s", "127.0.0.1"], 2, "one of --message, --file and --lines"),
        (["-m", "x"], 2, "Missing option '-s' / '--service'"),
        (["-s", "127.0.0.1", "-m", "x", "--lines"], 2, "one of"),
        (["-s", "127.0.0.1", "-m", ""], 2, "empty"),
        (["-s", "127.0.0.1", "-m", "-"], 2, "empty"),
        (["-s", "", "-m", "x"], 2, "empty"),
        (["-s", "127.0.0.999", "-m", "x"], 2, "127.0.0.999"),
        (["-s", "10.0.0.1,pod", "-m", "x"], 2, "'pod'"),
        (["-s", "a..b", "-m", "x"], 2, "'a..b'"),
        (["-s", "127.0.0.1:0", "-m", "x"], 2, "port must be a number from 1 to 65535; got 0"),
        (["-s", "127.0.0.1", "-p", "70000", "-m", "x"], 2, "70000"),
        (["-s", "headless-udp", "-p", "No Such", "-m", "x"], 2, "'No Such'"),
        (["-s", "127.0.0.1", "-m", "x", "--count", "0"], 2, "--count"),
        (["-s", "127.0.0.1", "-m", "x", "--rate", "0"], 2, "--rate"),
        (["-s", "127.0.0.1", "-m", "x", "--rate", "nan"], 2, "--rate"),
        (["-s", "127.0.0.1", "-m", "x", "--interval", "-1"], 2, "--interval"),
        (["-s", "127.0.0.1", "-m", "x", "--interval", "1e300"], 2, "--interval"),
        (["-s", "127.0.0.1", "-m", "x", "--rate", "1e-320"], 2, "--rate"),
        (["-s", "127.0.0.1", "-m", "x", "--interval", "inf"], 2, "--interval"),
        (["-s", "127.0.0.1", "-m", "x", "--interval", "1", "--rate", "1"], 2, "--rate"),
        (["-s", "127.0.0.1", "-m", "x", "--interval", "1", "--bandwidth", "1M"], 2, "--bandwidth"),
        (["-s", "127.0.0.1", "-m", "x", "--bandwidth", "0"], 2, "--bandwidth"),
        (["-s", "127.0.0.1", "-m", "x", "--bandwidth", "-1M"], 2, "--bandwidth"),
        (["-s", "127.0.0.1", "-m", "x", "--bandwidth", "many"], 2, "--bandwidth"),
        (["-s", "127.0.0.1", "-m", "hello", "--bandwidth", "39"], 2, "must be at least one datagram of 5 bytes"),
        (["-s", "127.0.0.1", "-m", "x", "--burst", "0"], 2, "--burst"),
        (["-s", "127.0.0.1", "--lines", "--count", "2"], 2, "--count"),
        (["-s", "127.0.0.1", "-m", "x", "--family", "ipx"], 2, "ipx"),
        (["-s", "pod", "-m", "x", "--nameserver", "example.org"], 2, "'example.org'"),
        (["-s", "pod", "-m", "x", "--nameserver", "127.0.0.1:99999"], 2, "127.0.0.1:99999"),
        (["-s", "pod", "-m", "x", "--nonsense"], 2, "--nonsense"),
        (["-s", "127.0.0.1", "--file", "/nonexistent/file"], 1, "/nonexistent/file: No such file"),
        (["-s", "127.0.0.1", "--file", "/"], 1, "cannot read the message from /"),
        (["-s", "127.0.0.1", "--file", "/dev/zero"], 2, "/dev/zero has more than"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(arguments: list[str], code: int, part: str) -> None:
    assert part in invoke("send", *arguments).assert_one_sentence(code)


def test_an_error_is_json_too_where_json_was_asked_for() -> None:
    run = invoke("send", "-s", "127.0.0.999", "-m", "x", "-o", "json")
    assert run.json["exit_code"] == run.code == 2
    assert "127.0.0.999" in run.json["error"]
    run = invoke("send", "-s", "127.0.0.1", "-m", "", "-o", "json")
    assert run.json["exit_code"] == run.code == 2


def test_a_line_that_comes_late_is_not_made_up_for(
    pods: Callable[..., list[Pod]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line is read once the one before has left."""
    (pod,) = pods(1)
    clock, read = ScriptedClock(), list[float]()

    class Lines:
        def readline(self, limit: int) -> bytes:
            clock.now += 0.8 * (len(read) == 1)
            read.append(clock.now)
            return b"%d\n" % len(read) if len(read) < 4 else b""

    monkeypatch.setattr("fanout.cli.commands.send.standard_input", Lines)
    clock.pace(monkeypatch)
    assert invoke("send", "-s", str(pod.endpoint), "--lines", "--interval", "0.009").code == 0
    first, late, second, third = read
    assert [late - first, second - late, third - second] == pytest.approx([0.8, 0.0, 0.009])
    assert pod.waiting(3) == [b"1", b"2", b"3"]


def test_an_interval_is_a_rate_without_bursts(pods: Callable[..., list[Pod]], monkeypatch: pytest.MonkeyPatch) -> None:
    pacer = mock.Mock(wraps=Pacer)
    monkeypatch.setattr("fanout.sender.engine.Pacer", pacer)
    assert invoke("send", "-s", literals(pods(1)), "-m", "x", "--interval", "300").code == 0
    assert pacer.call_args.kwargs == {"rate": 1 / 300, "bandwidth": None, "burst": 1}


def test_a_line_over_the_bandwidth_ends_the_stream_and_what_came_before_is_reported(
    pods: Callable[..., list[Pod]],
) -> None:
    (pod,) = pods(1)
    run = invoke("send", "-s", str(pod.endpoint), "--lines", "--bandwidth", "100", stdin=b"a\n" + b"b" * 20 + b"\n")
    assert run.code == 2
    assert run.out.splitlines()[-1] == "sent 1 message (1 byte) to 1 endpoint"
    assert "bandwidth must be at least one datagram of 20 bytes" in run.err
    assert pod.waiting(1) == [b"a"]


def test_no_reader_left() -> None:
    command = f"{shlex.join(FANOUT)} send -s 127.0.0.1:9 -m x --count 3 | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, env=environment(), check=False)
    assert done.stderr == b""


def test_no_answer_from_dns_is_exit_code_1(refusing_nameserver: str) -> None:
    def run() -> Run | None:
        run = invoke("send", "-s", "headless-udp", "-m", "x", "--nameserver", refusing_nameserver)
        return None if "at any nameserver" in run.err else run  # the time was up before it was asked

    assert f"cannot resolve headless-udp A at {refusing_nameserver}" in until(run).assert_one_sentence(1)


def test_no_line_is_no_message() -> None:
    run = invoke("send", "-s", "127.0.0.1:9", "--lines", stdin=b"")
    assert (run.code, run.out) == (0, "sent nothing: no message came\n")
