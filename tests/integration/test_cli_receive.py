"""The receiver app as a process: its log, its admin port, its end."""

from __future__ import annotations

import base64
import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.model import Endpoint
from fanout_receiver.messages import payload_field
from tests.integration.test_inbox import gso_sender, send_run
from tests.integration.test_receiver import send_to
from tests.support.cli import FANOUT, Running, environment, fanout, receiving, running, strict_json
from tests.support.ports import free_port

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


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def received(receiver: Running, count: int) -> list[dict[str, object]]:
    receiver.wait_until(lambda: receiver.out.count('"message_received"') >= count)
    return receiver.events("message_received")


def admin_of(receiver: Running) -> str:
    return f"http://{receiver.events('receiver_started')[0]['admin']}"


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_one_event_a_message_with_who_where_and_what(tmp_path: Path) -> None:
    identity = {"POD_NAME": "pod-0", "POD_NAMESPACE": "ns", "POD_IP": "10.0.0.7", "NODE_NAME": "node"}
    with receiving(tmp_path, **identity) as (receiver, endpoint):
        send_to(port_of(endpoint), ["grüße".encode()])
        (event,) = received(receiver, 1)
        run = receiver.stop()
    assert str(event.pop("source")).startswith("127.0.0.1:")
    assert str(event.pop("timestamp")).endswith("Z")
    assert event == {
        "level": "info", "event": "message_received", "pod": "pod-0", "namespace": "ns", "pod_ip": "10.0.0.7",
        "node": "node", "size": 7, "payload": "grüße",
    }  # fmt: skip
    assert (run.code, run.err) == (0, "")
    assert [event["event"] for event in receiver.events()][-2:] == ["receiver_draining", "receiver_stopped"]
    assert receiver.events("receiver_stopped")[0]["datagrams"] == 1


def test_hostile_payloads_never_break_a_json_line(tmp_path: Path) -> None:
    with receiving(tmp_path) as (receiver, endpoint):
        send_to(port_of(endpoint), HOSTILE)
        events = received(receiver, len(HOSTILE))
        receiver.stop()
    shown = [
        base64.b64decode(str(event["payload_base64"])) if "payload_base64" in event else str(event["payload"]).encode()
        for event in events
    ]
    assert shown == HOSTILE
    assert receiver.out.isascii()
    assert "\x1b" not in receiver.out


def test_hostile_payloads_never_reach_a_terminal() -> None:
    terminal, its_other_end = pty.openpty()
    command = [*FANOUT, "receive", "--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--drain", "0"]
    command += ["--log-format", "console"]
    process = subprocess.Popen(command, stdout=its_other_end, env=environment(NO_COLOR="1", TERM="xterm"))
    os.close(its_other_end)
    try:
        shown = b""
        while b"receiver_started" not in shown or b"\n" not in shown:
            shown += os.read(terminal, 4096)
        send_to(port_of(shown.decode().partition("address='")[2].partition("'")[0]), HOSTILE[:-1])
        while shown.count(b"message_received") < len(HOSTILE) - 1:
            shown += os.read(terminal, 65_536)
        process.send_signal(signal.SIGTERM)
        while b"receiver_stopped" not in shown or not shown.endswith(b"\n"):
            shown += os.read(terminal, 65_536)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    lines = shown.decode().replace("\r\n", "\n").splitlines()
    assert len(lines) == len(HOSTILE) - 1 + 3
    assert b"\x1b" not in shown
    assert b"\\x1b[31mred" in shown


@given(st.binary(max_size=40), st.integers(0, 40))
def test_any_payload_is_a_value(payload: bytes, limit: int) -> None:
    field = payload_field(payload, limit)
    cut = field.pop("payload_cut", False)
    assert cut == (limit < len(payload))
    ((key, value),) = field.items()
    shown = value.encode() if key == "payload" else base64.b64decode(value)
    assert payload.startswith(shown)
    assert len(shown) >= min(limit, len(payload)) - (3 if cut and key == "payload" else 0)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_flood_is_logged_at_the_rate_and_the_rest_counted_exactly(tmp_path: Path, workers: str) -> None:
    with receiving(tmp_path, "--log-rate", "50", "--workers", workers) as (receiver, endpoint):
        for _ in range(10):
            send_to(port_of(endpoint), [b"x"] * 500)
            time.sleep(0.05)
        receiver.wait_until(lambda: "messages_suppressed" in receiver.out)
        receiver.stop()
    logged = len(receiver.events("message_received"))
    suppressed = sum(event["count"] for event in receiver.events("messages_suppressed"))
    (stopped,) = receiver.events("receiver_stopped")
    assert logged <= 50 + 50 * 3
    assert logged + suppressed == stopped["datagrams"] == 5000
    assert stopped["suppressed_lines"] == suppressed


def test_merged_runs_are_counted_by_message(tmp_path: Path) -> None:
    with receiving(tmp_path, "--log-rate", "50") as (receiver, endpoint):
        with gso_sender(Endpoint.parse(endpoint)) as sender:
            for _ in range(200):
                send_run(sender, b"x" * 64 * 200, 200)
        receiver.wait_until(lambda: "messages_suppressed" in receiver.out)
        receiver.stop()
    logged = receiver.events("message_received")
    suppressed = sum(event["count"] for event in receiver.events("messages_suppressed"))
    assert {event["size"] for event in logged} == {200}
    assert len(logged) + suppressed == receiver.events("receiver_stopped")[0]["datagrams"] == 200 * 64


@pytest.mark.parametrize(
    ("overflow", "drops"),
    [("wait", "kernel_dropped"), ("drop_oldest", "queue_dropped"), ("drop_newest", "queue_dropped")],
)
def test_what_a_log_that_cannot_follow_loses_is_counted(tmp_path: Path, overflow: str, drops: str) -> None:
    """All is logged, the reader of the log stops reading, and the queue and the kernel's buffer fill up."""
    reader, writer = os.pipe()
    arguments = ("--port", "0", "--admin-port", "0", "--drain", "0", "--log-rate", "0")
    command = [*FANOUT, "receive", "--host", "127.0.0.1", *arguments, "--workers", "2", "--overflow", overflow]
    process = subprocess.Popen(command, stdout=writer, env=environment())
    os.close(writer)
    try:
        with os.fdopen(reader) as log:
            port = port_of(strict_json(log.readline())["address"])
            for _ in range(60):
                send_to(port, [b"x"] * 2000)
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            events = [strict_json(line) for line in log]
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()
    stopped = events[-1]
    dropped = stopped["kernel_drops"] + stopped["queue_drops"]
    assert dropped == sum(event["count"] for event in events if event["event"] in ("kernel_dropped", "queue_dropped"))
    assert sum(event["event"] == "message_received" for event in events) + dropped == 60 * 2000
    assert any(event["event"] == drops for event in events)


def test_the_log_level_and_the_payload_limit(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with receiving(tmp_path / "a", "--log-payload", "3") as (receiver, endpoint):
        send_to(port_of(endpoint), [b"secret"])
        (event,) = received(receiver, 1)
        assert (event["payload"], event["payload_cut"], event["size"]) == ("sec", True, 6)
    arguments = ("receive", "--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--log-level", "error")
    with running(tmp_path, *arguments, "--drain", "0") as quiet:
        time.sleep(0.7)
        assert quiet.stop() == (0, "", "")


def test_probes_and_metrics(tmp_path: Path) -> None:
    with running(tmp_path, "receive", "--port", "0", "--host", "127.0.0.1", "--admin-port", str(free_port()),
                 "--drain", "1", "--log-rate", "1") as receiver:  # fmt: skip
        receiver.wait_until(lambda: "receiver_started" in receiver.out)
        started = receiver.events("receiver_started")[0]
        admin = admin_of(receiver)
        probe = ("healthcheck", "--host", "127.0.0.1", "--admin-port", admin.rpartition(":")[2])
        send_to(port_of(started["address"]), [b"abc"] * 5)
        received(receiver, 1)
        assert get(f"{admin}/livez") == get(f"{admin}/readyz") == (200, "ok\n")
        assert get(f"{admin}/nonsense")[0] == 404
        receiver.wait_until(lambda: "messages_suppressed" in receiver.out)
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
        assert fanout(*probe) == fanout(*probe, "--live") == (0, "ok\n", "")
        receiver.process.send_signal(signal.SIGTERM)
        receiver.wait_until(lambda: "receiver_draining" in receiver.out)
        assert get(f"{admin}/readyz") == (503, "draining\n")
        assert get(f"{admin}/livez")[0] == 200
        assert fanout(*probe) == (1, "draining\n", "")
        assert receiver.end().code == 0
    assert "no receiver or relay answers" in fanout(*probe).assert_one_sentence(1)


def test_the_admin_port_survives_peers_that_lie(tmp_path: Path) -> None:
    with running(tmp_path, "receive", "--port", "0", "--admin-port", str(free_port()), "--drain", "0") as receiver:
        receiver.wait_until(lambda: "receiver_started" in receiver.out)
        admin = admin_of(receiver)
        port = port_of(admin)
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        for garbage in (b"\x00\xff" * 1000, b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"x" * 100_000, b"\r\n", b"GET /\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=1) as peer:
                try:
                    peer.sendall(garbage)
                    peer.recv(1000)
                except OSError:
                    pass  # cut off, as it should be
        for peer in silent:
            peer.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                assert get(f"{admin}/livez") == (200, "ok\n")
                break
            except OSError:
                assert time.monotonic() < deadline
        run = receiver.stop()
    assert (run.code, run.err) == (0, "")


def test_the_admin_port_survives_peers_that_drip(tmp_path: Path) -> None:
    with running(tmp_path, "receive", "--port", "0", "--admin-port", str(free_port()), "--drain", "0") as receiver:
        receiver.wait_until(lambda: "receiver_started" in receiver.out)
        admin = admin_of(receiver)
        peers = [socket.create_connection(("127.0.0.1", port_of(admin))) for _ in range(32)]
        started = time.monotonic()
        answered = None
        while answered is None and time.monotonic() < started + 15:
            for peer in peers:
                with contextlib.suppress(OSError):
                    peer.send(b"x")
            time.sleep(0.2)
            with contextlib.suppress(OSError):
                answered = get(f"{admin}/livez")
        for peer in peers:
            peer.close()
        assert answered == (200, "ok\n")
        assert time.monotonic() - started < 10
        receiver.stop()


@pytest.mark.parametrize("host", ["a b", "a..b", "\u00fc" * 70, "::1", "nosuch.invalid"])
def test_healthcheck_of_no_receiver(host: str) -> None:
    sentence = fanout("healthcheck", "--host", host, "--admin-port", "1").assert_one_sentence(1)
    assert "no receiver or relay answers at http://" in sentence
    assert ("[::1]:1" in sentence) == (host == "::1")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.0 200 OK\r\n\r\n\x1b[31mfine\nsecond", b"\x1b[31m\ngarbage\n", b"", b"HTTP/1.0 \xff\r\n\r\n"]
)
def test_healthcheck_of_a_stranger_prints_one_clean_line(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def lie() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        lying = threading.Thread(target=lie)
        lying.start()
        run = fanout("healthcheck", "--host", "127.0.0.1", "--admin-port", str(server.getsockname()[1]))
        lying.join()
    assert len((run.out + run.err).splitlines()) == 1
    assert "\x1b" not in run.out + run.err
    assert run.code == (0 if b"200" in answer else 1)


def test_sigterm_drains_and_hands_over_what_is_queued(tmp_path: Path) -> None:
    with receiving(tmp_path, "--drain", "0.5", "--log-rate", "0") as (receiver, endpoint):
        receiver.process.send_signal(signal.SIGTERM)
        receiver.wait_until(lambda: "receiver_draining" in receiver.out)
        send_to(port_of(endpoint), [b"%d" % number for number in range(2000)])
        run = receiver.end()
    assert run.code == 0
    assert len(receiver.events("message_received")) == 2000
    assert run.out.splitlines()[-1].count("receiver_stopped") == 1


def test_a_second_signal_ends_the_drain(tmp_path: Path) -> None:
    with receiving(tmp_path) as (receiver, _):
        receiver.stop(signal.SIGINT)
    with receiving(tmp_path, "--drain", "60") as (receiver, _):
        receiver.process.send_signal(signal.SIGTERM)
        receiver.wait_until(lambda: "receiver_draining" in receiver.out)
        assert receiver.stop(signal.SIGTERM).code == 0


def test_a_log_file_that_fails_later_is_said_once_and_datagrams_are_counted(tmp_path: Path) -> None:
    """A pipe whose reader goes away: lines are lost and counted, the receiver goes on."""
    reader, writer = os.pipe()
    command = [*FANOUT, "receive", "--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--drain", "0"]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, env=environment())
    os.close(writer)
    try:
        with os.fdopen(reader, "r") as log:
            port = port_of(strict_json(log.readline())["address"])
        send_to(port, [b"x"] * 3)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert (
        complaint == b"fanout: log lines are lost from now on: cannot write the log to standard output: Broken pipe\n"
    )


@pytest.mark.parametrize("broken", ["messages.message_fields", "logs._LineLogger.msg"])
def test_a_message_that_cannot_be_logged_is_counted_and_the_next_one_is_logged(tmp_path: Path, broken: str) -> None:
    """Whatever raises, for whatever reason: the message's rendering, or that of the complaint about it too."""
    owner, _, name = broken.rpartition(".")
    (tmp_path / "sitecustomize.py").write_text(
        f"from fanout.app import logs\nfrom fanout_receiver import messages\nwhole = {broken}\n"
        "def fail(*arguments):\n"
        "    if 'bad' in repr(arguments): raise RuntimeError('a bad one')\n"
        f"    return whole(*arguments)\n{owner}.{name} = fail\n"
        f"if {name == 'msg'}: {owner}.info = {owner}.error = fail\n"
    )
    with running(tmp_path, "receive", "--port", "0", "--host", "127.0.0.1", "--admin-port", str(free_port()),
                 "--drain", "0", PYTHONPATH=str(tmp_path)) as receiver:  # fmt: skip
        receiver.wait_until(lambda: "receiver_started" in receiver.out)
        send_to(port_of(receiver.events("receiver_started")[0]["address"]), [b"bad", b"good"])
        (event,) = received(receiver, 1)
        assert event["payload"] == "good"
        assert "fanout_receiver_handler_errors_total 1.0" in get(f"{admin_of(receiver)}/metrics")[1]
        assert len(receiver.events("handler_failed")) == (name != "msg")
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
    assert part in fanout("receive", *defaults, *arguments).assert_one_sentence(code)


def test_a_full_standard_output_is_one_sentence() -> None:
    with open("/dev/full", "wb") as full:
        command = [*FANOUT, "receive", "--port", "0", "--admin-port", "0"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr == b"fanout: cannot write the log to standard output: No space left on device\n"


def test_busy_ports_are_one_sentence(tmp_path: Path) -> None:
    with receiving(tmp_path) as (_, endpoint):
        host, _, port = endpoint.rpartition(":")
        sentence = fanout("receive", "--host", host, "--port", port, "--admin-port", "0").assert_one_sentence(1)
        assert f"cannot listen on UDP {endpoint}: the port is in use" in sentence
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        sentence = fanout("receive", "--host", "127.0.0.1", "--port", "0", "--admin-port", port).assert_one_sentence(1)
        assert f"admin port: cannot listen on TCP 127.0.0.1:{port}: the port is in use" in sentence


def test_the_module_runs_like_the_command() -> None:
    assert subprocess.run([sys.executable, "-m", "fanout", "--version"], capture_output=True, check=True).stdout == (
        fanout("--version").out.encode()
    )
