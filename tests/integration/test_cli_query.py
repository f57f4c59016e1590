"""`fanout query` as a process, to the receiver app and to handlers."""

from __future__ import annotations

import base64
import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fanout as package
from fanout.cli.query import _line, _payload_json, _printable
from fanout.delivery.receipt import Reply
from fanout.model import Endpoint
from fanout.receiver import Receiver, ReceiverStats
from tests.support.cli import fanout, receiving, running
from tests.support.pods import Pod

HERE = Endpoint("10.0.0.7", 12000)


def test_ping_and_info_of_the_receiver_app(tmp_path: Path, pods: Callable[..., list[Pod]]) -> None:
    (mute,) = pods(1)
    with receiving(tmp_path, POD_NAME="pod-0", POD_NAMESPACE="ns", NODE_NAME="node") as (receiver, endpoint):
        run = fanout("query", "-s", endpoint, "-m", "ping")
        assert (run.code, run.err) == (0, "")
        assert run.out.splitlines()[0].startswith(f"{endpoint} (")
        assert run.out.splitlines()[0].endswith(" ms): pong")
        assert run.out.splitlines()[1].startswith("1 endpoint replied in ")
        service = f"{endpoint},{mute.endpoint}"
        run = fanout("query", "-s", service, "-m", "info", "-o", "json", "--timeout", "0.6")
        receiver.stop()
    assert run.code == 4
    report = run.json
    assert [pod["endpoint"] for pod in report["silent"]] == [str(mute.endpoint)]
    assert (report["service"], report["complete"], report["failed"], report["left"]) == (service, False, [], [])
    (reply,) = report["replies"]
    assert json.loads(reply["payload"]) == reply["json"]
    info = reply["json"]
    assert (info["version"], info["pod"], info["namespace"], info["node"]) == (
        package.__version__, "pod-0", "ns", "node",
    )  # fmt: skip
    assert info["uptime"] > 0
    assert set(info["counters"]) == {"lost", *(field.name for field in fields(ReceiverStats))}
    assert (info["counters"]["datagrams"], info["counters"]["replied"]) == (2, 1)


def test_replies_and_who_did_not_reply_as_lines(tmp_path: Path, pods: Callable[..., list[Pod]]) -> None:
    (mute,) = pods(1)
    with receiving(tmp_path, "--exec", "cat") as (_, endpoint):
        run = fanout("query", "-s", f"{endpoint},{mute.endpoint}", "-m", "one\ntwo\n", "--timeout", "0.6")
        assert run.code == 4
        head, one, two, silent, hint, summary = run.out.splitlines()
        assert head.startswith(f"{endpoint} (")
        assert (one, two) == ("  one", "  two")
        assert silent.startswith(f"silent: {mute.endpoint} did not answer in 0.")
        assert hint.startswith("nothing came from it")
        assert summary.startswith("1 of 2 endpoints replied in 0.")
        assert summary.endswith("; 1 silent")
        run = fanout("query", "-s", endpoint, "-m", "-", stdin=b"\x1b[31m\x00\xff" * 20)
        assert run.out.splitlines()[0].endswith(
            ": 140 bytes: 1b 5b 33 31 6d 00 ff 1b 5b 33 31 6d 00 ff 1b 5b 33 31 6d 00 ff 1b 5b 33 ..."
        )
        (tmp_path / "question").write_bytes(b"")
        run = fanout("query", "-s", endpoint, "--file", str(tmp_path / "question"), "--allow-empty")
        assert run.out.splitlines()[0].endswith(" ms): (empty)")


def test_larger_replies_need_a_key_or_an_operator_who_allows_them(tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    assert fanout("keygen", key).code == 0
    large = "head -c 300000 /dev/zero"
    for number, (allowing, asking) in enumerate(
        (((), ()), (("--reply-to-anyone",), ()), (("--key-file", key), ("--key-file", key)))
    ):
        (tmp_path / str(number)).mkdir()
        with receiving(tmp_path / str(number), "--exec", large, *allowing) as (receiver, endpoint):
            run = fanout("query", "-s", endpoint, "-m", "x", "-o", "json", *asking)
            receiver.stop()
        (event,) = receiver.events("message_received")
        if not allowing:
            assert run.code == 4
            assert "larger than the question" in run.json["failed"][0]["reason"]
            assert (event["outcome"], "larger than the question" in str(event["reason"])) == ("failed", True)
        else:
            assert run.code == 0
            assert run.json["replies"][0]["payload"] == "\0" * 300_000
            assert event["outcome"] == "replied"


def test_an_interrupt_prints_what_came(tmp_path: Path, pods: Callable[..., list[Pod]]) -> None:
    (mute,) = pods(1)
    (tmp_path / "query").mkdir()
    with receiving(tmp_path) as (_, endpoint):
        service = f"{endpoint},{mute.endpoint}"
        with running(tmp_path / "query", "query", "-s", service, "-m", "ping", "--timeout", "60") as query:
            mute.receive()
            time.sleep(0.5)
            run = query.stop(signal.SIGINT)
    assert (run.code, run.err) == (130, "")
    assert "pong" in run.out
    assert run.out.endswith("; 1 silent; interrupted\n")


def test_a_pod_that_replies_nothing_has_failed() -> None:
    with Receiver(0, host="127.0.0.1") as receiver:
        thread = threading.Thread(target=lambda: [None for _ in receiver])
        thread.start()
        address = receiver.address
        run = fanout("query", "-s", str(address), "-m", "x", "--timeout", "10")
        receiver.stop()
        thread.join()
    assert run.code == 4
    failed, summary = run.out.splitlines()
    assert failed == f"failed at {address}: the handler did not reply"
    assert summary.startswith("0 of 1 endpoint replied in ")
    assert summary.endswith("; 1 failed")


@pytest.mark.parametrize("output", ["text", "json"])
def test_an_interrupt_before_pods_are_known_says_so(
    pods: Callable[..., list[Pod]], tmp_path: Path, output: str
) -> None:
    (nameserver,) = pods(1)
    arguments = ("-s", "pods.example.", "--nameserver", str(nameserver.endpoint), "-m", "ping", "-o", output)
    with running(tmp_path, "query", *arguments) as query:
        nameserver.receive()
        time.sleep(0.1)
        run = query.stop(signal.SIGINT)
    assert (run.code, run.err) == (130, "")
    if output == "text":
        assert run.out == "interrupted: nothing is known of any pod\n"
    else:
        report = run.json
        assert report.pop("elapsed") > 0
        assert report == {
            "service": "pods.example.", "bytes": 4, "answer_age": None, "stale": None, "complete": False,
            "replies": [], "failed": [], "refused": [], "dropped": [], "silent": [], "left": [],
        }  # fmt: skip


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_reply_can_harm_a_terminal_or_the_json(payload: bytes) -> None:
    shown = _line(Reply(HERE, payload, 0.001))
    plain = shown.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert all(character.isprintable() or character == "\n" for character in plain)
    assert all(line.startswith(("10.0.0.7:12000", "  ")) for line in plain.splitlines())
    value = _payload_json(payload)
    json.dumps(value, allow_nan=False)
    kept = base64.b64decode(value["payload_base64"]) if "payload_base64" in value else value["payload"].encode()
    assert kept == payload


@pytest.mark.parametrize(
    ("payload", "parsed"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'{"a": NaN}', None),
        (b'{"a": 1e999}', None),
        (b"[1]", None),
        (b'"a"', None),
        (b'{"a": ' * 100_000, None),
        (b'{"a": ' + b"9" * 5000 + b"}", None),
    ],
)
def test_json_objects_are_parsed(payload: bytes, parsed: object) -> None:
    assert _payload_json(payload).get("json") == parsed


def test_text_that_a_terminal_can_show() -> None:
    assert _printable("grüße\tund\r\nmehr\n".encode()) == "grüße    und\nmehr"
    assert [_printable(payload) for payload in (b"\x1b[2J", b"a\rb", "\u202e".encode(), b"\xff")] == [None] * 4


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["-s", "127.0.0.1"], 2, "one of --message and --file"),
        (["-m", "x"], 2, "--service"),
        (["-s", "127.0.0.1", "-m", "x", "--file", "y"], 2, "one of"),
        (["-s", "127.0.0.1", "-m", ""], 2, "empty"),
        (["-s", "127.0.0.1", "-m", "x", "--timeout", "0"], 2, "--timeout"),
        (["-s", "127.0.0.1", "-m", "x", "--retries", "-1"], 2, "--retries"),
        (["-s", "127.0.0.1", "-m", "x", "--max-datagram", "1"], 2, "--max-datagram"),
        (["-s", "127.0.0.1", "-m", "x", "--cluster", "a"], 2, "--key-file"),
        (["-s", "127.0.0.1", "-m", "x", "--key-file", "/nonexistent"], 1, "/nonexistent"),
        (["-s", "127.0.0.999", "-m", "x"], 2, "127.0.0.999"),
        (["-s", "127.0.0.1", "--file", "/dev/zero"], 2, "16,777,216"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], code: int, part: str) -> None:
    assert part in fanout("query", *arguments).assert_one_sentence(code)


def test_an_error_is_json_too(closed_port: int) -> None:
    run = fanout("query", "-s", "127.0.0.999", "-m", "x", "-o", "json")
    assert run.json["exit_code"] == run.code == 2
    run = fanout("query", "-s", "headless-udp", "-m", "x", "-o", "json", "--nameserver", f"127.0.0.1:{closed_port}")
    assert run.json["exit_code"] == run.code == 1


def test_completion_knows_query() -> None:
    assert "query" in fanout(_FANOUT_COMPLETE="bash_complete", COMP_WORDS="fanout qu", COMP_CWORD="1").out
    run = fanout(_FANOUT_COMPLETE="bash_complete", COMP_WORDS="fanout query --ti", COMP_CWORD="2")
    assert "--timeout" in run.out
