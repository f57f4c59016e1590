"""The receiver app as a process: its log, its admin port, its end."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import fanout.__main__
from fanout.model import Endpoint
from tests.support.admin import get
from tests.support.cli import FANOUT, environment, invoke, receiving, running, strict_json
from tests.support.datagrams import FLOOD, gso_sender, send_run, send_to
from tests.support.ports import free_port
from tests.support.receivers import admin_of, metric, port_of, receive, received
from tests.support.terminal import terminal
from tests.support.waiting import PATIENCE, until

HOSTILE = [
    b"",
    b"line\nbreak\r\n",
    b"\x1b[31mred\x1b]0;title\x07",
    b'{"event": "forged"}\n{"event": "forged"}',
    b"NaN",
    b"\xff\xfe\x00binary",
    "\u2028\u2029\u0085\u202eright to left".encode(),
    b"\x00" * 1000,
    b"x" * 65_507,
]
# So much buffer any kernel gives: where it does not, a line says so.
RECEIVE = ("receive", "--host", "127.0.0.1", "--port", "0", "--drain", "0", "--receive-buffer", "100000")


def test_one_event_a_message_with_who_where_and_what_however_hostile_it_is(tmp_path: Path) -> None:
    identity = {"POD_NAME": "pod-0", "POD_NAMESPACE": "ns", "POD_IP": "10.0.0.7", "NODE_NAME": "node"}
    with receiving(tmp_path, **identity) as (receiver, endpoint):
        send_to(port_of(endpoint), ["grüße".encode(), *HOSTILE])
        event, *events = received(receiver, 1 + len(HOSTILE))
        run = receiver.stop()
    assert str(event.pop("source")).startswith("127.0.0.1:")
    assert str(event.pop("timestamp")).endswith("Z")
    assert event == {
        "level": "info", "event": "message_received", "pod": "pod-0", "namespace": "ns", "pod_ip": "10.0.0.7",
        "node": "node", "size": 7, "payload": "grüße",
    }  # fmt: skip
    shown = [
        base64.b64decode(str(event["payload_base64"])) if "payload_base64" in event else str(event["payload"]).encode()
        for event in events
    ]
    assert shown == HOSTILE
    assert (run.code, run.err) == (0, "")
    assert run.out.isascii()
    assert "\x1b" not in run.out
    assert [event["event"] for event in receiver.events()][-2:] == ["receiver_draining", "receiver_stopped"]
    assert receiver.events("receiver_stopped")[0]["datagrams"] == 1 + len(HOSTILE)


def test_hostile_payloads_never_reach_a_terminal() -> None:
    count = len(HOSTILE) - 1
    with terminal(*RECEIVE, "--admin-port", "0", "--log-format", "console", NO_COLOR="1", TERM="xterm") as screen:
        screen.wait_until(lambda: b"receiver_started" in screen.printed and screen.printed.endswith(b"\n"))
        address = screen.printed.decode().partition("address='")[2].partition("'")[0]
        send_to(port_of(address), HOSTILE[:-1])
        screen.wait_until(lambda: screen.printed.count(b"message_received") >= count)
        assert screen.stop(signal.SIGTERM) == 0
        shown = bytes(screen.printed)
    assert len(shown.decode().replace("\r\n", "\n").splitlines()) == count + 3
    assert b"\x1b" not in shown
    assert b"\\x1b[31mred" in shown


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_flood_is_logged_at_the_rate_and_the_rest_counted_by_message(tmp_path: Path, workers: str) -> None:
    """Also where the kernel has merged messages."""
    arguments = ("--log-rate", "20", "--log-payload", "3", "--workers", workers)
    with receiving(tmp_path, *arguments) as (receiver, endpoint):
        send_to(port_of(endpoint), [b"secret"])
        (event,) = received(receiver, 1)
        with gso_sender(Endpoint.parse(endpoint)) as sender:
            for _ in range(2):
                send_run(sender, b"x" * 64 * 200, 200)
        received(receiver, 20)
        send_to(port_of(endpoint), [b"flood"] * FLOOD)
        receiver.stop()
    assert (event["payload"], event["payload_cut"], event["size"]) == ("sec", True, 6)
    logged = receiver.events("message_received")
    suppressed = sum(event["count"] for event in receiver.events("messages_suppressed"))
    (stopped,) = receiver.events("receiver_stopped")
    assert len(logged) + suppressed == stopped["datagrams"] == 1 + 2 * 64 + FLOOD
    assert stopped["suppressed_lines"] == suppressed
    assert {event["size"] for event in logged[1:20]} == {200}
    began, ended = (datetime.fromisoformat(str(line["timestamp"])) for line in (receiver.events()[0], logged[-1]))
    assert 20 <= len(logged) <= 20 + 20 * (ended - began).total_seconds()


@pytest.mark.parametrize(("overflow", "reason"), [("wait", "kernel_buffer"), ("drop_oldest", "queue_full")])
def test_what_a_log_that_cannot_follow_loses_is_counted(overflow: str, reason: str) -> None:
    """All is logged, the reader of the log stops reading, and the queue and the kernel's buffer fill up."""
    reader, writer = os.pipe()
    arguments = ("--admin-port", str(free_port()), "--log-rate", "0", "--log-payload", "0", "--workers", "2")
    command = [*FANOUT, *RECEIVE, "--receive-buffer", "200000", *arguments, "--overflow", overflow]
    process = subprocess.Popen(command, stdout=writer, env=environment())
    os.close(writer)
    sent = 0
    try:
        with os.fdopen(reader) as log:
            started = strict_json(log.readline())
            admin = f"http://{started['admin']}"

            def is_over() -> bool:
                """Send more, and say whether that was too much: the queue takes 32 MiB."""
                nonlocal sent
                send_to(port_of(started["address"]), [bytes(65_000)] * 20)
                sent += 20
                is_full = metric(admin, "fanout_receiver_queue_depth") > 500
                return is_full and metric(admin, f'fanout_receiver_dropped_total{{reason="{reason}"}}') > 0

            until(is_over)
            process.send_signal(signal.SIGTERM)
            events = [strict_json(line) for line in log]
        assert process.wait(timeout=PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    stopped = events[-1]
    dropped = stopped["kernel_drops"] + stopped["queue_drops"]
    assert dropped == sum(event["count"] for event in events if event["event"] in ("kernel_dropped", "queue_dropped"))
    assert sum(event["event"] == "message_received" for event in events) + dropped == sent
    expected = {"kernel_buffer": "kernel_dropped", "queue_full": "queue_dropped"}[reason]
    assert any(event["event"] == expected for event in events)


def test_a_quiet_log_and_the_end_by_sigint(tmp_path: Path) -> None:
    port = free_port()
    arguments = ("--drain", "0.1", "--admin-port", str(port), "--log-level", "error")
    with running(tmp_path, *RECEIVE, *arguments) as quiet:
        quiet.wait_until(lambda: is_ready(port))
        assert quiet.stop(signal.SIGINT) == (0, "", "")


def is_ready(admin_port: int) -> bool:
    try:
        return get(f"http://127.0.0.1:{admin_port}/readyz") == (200, "ok\n")
    except OSError:
        return False


def test_probes_and_metrics(tmp_path: Path) -> None:
    """While it drains, too; a second signal ends that."""
    arguments = ("--admin-port", str(free_port()), "--drain", "3600", "--log-rate", "0.001")
    with receiving(tmp_path, *arguments) as (receiver, endpoint):
        admin = admin_of(receiver)
        probe = ("healthcheck", "--host", "127.0.0.1", "--admin-port", str(port_of(admin)), "--timeout", "60")
        send_to(port_of(endpoint), [b"abc"] * 5)
        receiver.wait_until(lambda: "messages_suppressed" in receiver.out)
        assert get(f"{admin}/livez") == get(f"{admin}/readyz") == (200, "ok\n")
        assert get(f"{admin}/nonsense")[0] == 404
        status, metrics = get(f"{admin}/metrics")
        assert status == 200
        for line in (
            "fanout_receiver_datagrams_total 5.0",
            "fanout_receiver_bytes_total 15.0",
            'fanout_receiver_dropped_total{reason="kernel_buffer"} 0.0',
            'fanout_receiver_dropped_total{reason="queue_full"} 0.0',
            "fanout_receiver_handler_errors_total 0.0",
            "fanout_receiver_queue_depth 0.0",
            "fanout_receiver_log_lines_suppressed_total 4.0",
        ):
            assert line in metrics
        assert invoke(*probe) == invoke(*probe, "--live") == (0, "ok\n", "")
        receiver.process.send_signal(signal.SIGTERM)
        receiver.wait_until(lambda: "receiver_draining" in receiver.out)
        assert get(f"{admin}/readyz") == (503, "draining\n")
        assert get(f"{admin}/livez")[0] == 200
        assert invoke(*probe) == (1, "draining\n", "")
        assert receiver.stop().code == 0
    assert "cannot reach a receiver or relay" in invoke(*probe).assert_one_sentence(1)


def test_it_goes_on_receiving_while_it_drains_and_hands_over_what_is_queued(tmp_path: Path) -> None:
    with receiving(tmp_path, "--drain", "3600", "--log-rate", "0") as (receiver, endpoint):
        receiver.process.send_signal(signal.SIGTERM)
        receiver.wait_until(lambda: "receiver_draining" in receiver.out)
        send_to(port_of(endpoint), [b"%d" % number for number in range(FLOOD)])
        received(receiver, 1)
        run = receiver.stop()
    assert run.code == 0
    assert [event["payload"] for event in receiver.events("message_received")] == [str(each) for each in range(FLOOD)]
    assert run.out.splitlines()[-1].count("receiver_stopped") == 1


def test_a_log_file_that_fails_later_is_said_once_and_datagrams_are_counted() -> None:
    """A pipe whose reader goes away: lines are lost and counted, the receiver goes on."""
    reader, writer = os.pipe()
    command = [*FANOUT, *RECEIVE, "--admin-port", str(free_port())]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, env=environment())
    os.close(writer)
    try:
        with os.fdopen(reader) as log:
            started = strict_json(log.readline())
        send_to(port_of(started["address"]), [b"x"] * 3)
        admin = f"http://{started['admin']}"
        until(lambda: metric(admin, "fanout_receiver_log_lines_lost_total") == 3)
        assert metric(admin, "fanout_receiver_datagrams_total") == 3
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert (
        complaint == b"fanout: log lines are lost from now on: cannot write the log to standard output: Broken pipe\n"
    )


def test_messages_that_cannot_be_logged_are_counted_and_the_next_one_is_logged(tmp_path: Path) -> None:
    """Whatever raises, for whatever reason: a message's rendering, or that of the complaint about it too."""
    (tmp_path / "sitecustomize.py").write_text(
        """
from fanout.daemon.common import logs
from fanout.daemon.core import log_fields

def breaking(whole, what):
    def break_it(*arguments):
        if what in repr(arguments):
            raise RuntimeError(f"cannot log {what}")
        return whole(*arguments)
    return break_it

log_fields.message_fields = breaking(log_fields.message_fields, "odd")
line = logs._LineLogger
line.msg = line.info = line.error = breaking(line.msg, "worse")
"""
    )
    arguments = ("--admin-port", str(free_port()))
    with receiving(tmp_path, *arguments, PYTHONPATH=str(tmp_path)) as (receiver, endpoint):
        send_to(port_of(endpoint), [b"odd", b"worse", b"good"])
        (event,) = received(receiver, 1)
        assert event["payload"] == "good"
        assert metric(admin_of(receiver), "fanout_receiver_handler_errors_total") == 2
        (complaint,) = receiver.events("handler_failed")
        assert complaint["error"] == "RuntimeError: cannot log odd"
        assert receiver.stop().code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--log-file", "/nonexistent/log"], 1, "cannot write the log to /nonexistent/log: No such file"),
        (["--log-file", "/"], 1, "cannot write the log to /"),
        (["--log-file", "/dev/full"], 1, "cannot write the log to /dev/full: No space left"),
        (["--host", "pod"], 2, "'pod'"),
        (["--host", "192.0.2.1"], 1, "no interface of this machine has that address"),
        (["--port", "70000"], 2, "--port"),
        (["--port", "x"], 2, "--port"),
        (["--drain", "-1"], 2, "--drain"),
        (["--drain", "nan"], 2, "--drain"),
        (["--log-rate", "inf"], 2, "--log-rate"),
        (["--log-level", "loud"], 2, "loud"),
        (["--receive-buffer", "0"], 2, "--receive-buffer"),
        (["--workers", "0"], 2, "--workers"),
        (["--workers", "65"], 2, "--workers"),
        (["--overflow", "drop"], 2, "--overflow"),
        (["extra"], 2, "extra"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], code: int, part: str) -> None:
    defaults = () if "--port" in arguments else ("--port", "0", "--admin-port", "0")
    assert part in receive(*defaults, *arguments).assert_one_sentence(code)


def test_a_full_standard_output_is_one_sentence() -> None:
    with open("/dev/full", "wb") as full:
        command = [*FANOUT, "receive", "--port", "0", "--admin-port", "0"]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=PATIENCE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"fanout: cannot write the log to standard output: No space left on device\n"


def test_busy_ports_are_one_sentence() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        sentence = receive("--host", "127.0.0.1", "--port", port, "--admin-port", "0").assert_one_sentence(1)
        assert f"cannot listen on UDP 127.0.0.1:{port}: the port is in use" in sentence
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        sentence = receive("--host", "127.0.0.1", "--port", "0", "--admin-port", port).assert_one_sentence(1)
        assert f"admin port: cannot listen on TCP 127.0.0.1:{port}: the port is in use" in sentence


def test_the_command_runs_like_the_module() -> None:
    (command,) = entry_points(group="console_scripts", name="fanout")
    assert command.load() is fanout.__main__.main
