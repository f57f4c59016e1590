"""`fanout query`, to the receiver app and to handlers."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import fanout as package
from fanout.discovery.core.endpoints import Known
from fanout.discovery.refresher import Refresher
from fanout.receiver.core.stats import ReceiverStats
from fanout.receiver.sync import Receiver
from tests.support.cli import invoke, receiving, running
from tests.support.handler_pods import Handler
from tests.support.pods import Pod
from tests.support.silent_pods import without_answers_of

PATIENT = ("--timeout", "3600")
"""Those who answer are waited for, however long they take."""


@contextmanager
def handled_by(handler: Handler, **settings: Any) -> Iterator[str]:
    """Serve a handler in a thread; yield the endpoint."""
    with Receiver(0, host="127.0.0.1", **settings) as receiver:
        thread = threading.Thread(target=receiver.serve, args=(handler,))
        thread.start()
        try:
            yield str(receiver.address)
        finally:
            receiver.stop()
            thread.join()


def test_ping_and_info_of_the_receiver_app(tmp_path: Path, pods: Callable[..., list[Pod]]) -> None:
    (mute,) = pods(1)
    with receiving(tmp_path, POD_NAME="pod-0", POD_NAMESPACE="ns", NODE_NAME="node") as (receiver, endpoint):
        run = invoke("query", "-s", endpoint, "-m", "ping", *PATIENT, "--retries", "0")
        assert (run.code, run.err) == (0, "")
        assert run.out.splitlines()[0].startswith(f"{endpoint} (")
        assert run.out.splitlines()[0].endswith(" ms): pong")
        assert run.out.splitlines()[1].startswith("1 endpoint replied in ")
        service = f"{endpoint},{mute.endpoint}"
        with without_answers_of(mute.endpoint):
            run = invoke("query", "-s", service, "-m", "info", "-o", "json", *PATIENT, "--retries", "0")
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
    with handled_by(lambda message: message.payload) as endpoint:
        with without_answers_of(mute.endpoint):
            run = invoke("query", "-s", f"{endpoint},{mute.endpoint}", "-m", "one\ntwo\n", *PATIENT)
        assert run.code == 4
        head, one, two, silent, hint, summary = run.out.splitlines()
        assert head.startswith(f"{endpoint} (")
        assert (one, two) == ("  one", "  two")
        assert silent.startswith(f"silent: {mute.endpoint} did not answer in 3.6e+03 s (")
        assert hint.startswith("nothing came from it")
        assert summary == "1 of 2 endpoints replied in 3.6e+03 s; 1 silent"
        run = invoke("query", "-s", endpoint, "-m", "-", *PATIENT, stdin=b"\x1b[31m\x00\xff" * 20)
        assert run.out.splitlines()[0].endswith(
            ": 140 bytes: 1b 5b 33 31 6d 00 ff 1b 5b 33 31 6d 00 ff 1b 5b 33 31 6d 00 ff 1b 5b 33 ..."
        )
        (tmp_path / "question").write_bytes(b"")
        run = invoke("query", "-s", endpoint, "--file", str(tmp_path / "question"), "--allow-empty", *PATIENT)
        assert run.out.splitlines()[0].endswith(" ms): (empty)")


@pytest.mark.parametrize("allowing", [(), ("--reply-to-anyone",)], ids=["by default", "where the operator allows it"])
def test_larger_replies_need_an_operator_who_allows_them(tmp_path: Path, allowing: tuple[str, ...]) -> None:
    with receiving(tmp_path, "--exec", "head -c 300000 /dev/zero", *allowing) as (receiver, endpoint):
        run = invoke("query", "-s", endpoint, "-m", "x", "-o", "json", *PATIENT)
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


def test_larger_replies_need_no_leave_where_there_is_a_key(key_file: str) -> None:
    with handled_by(lambda message: bytes(300_000), key_file=key_file) as endpoint:
        run = invoke("query", "-s", endpoint, "-m", "x", "-o", "json", *PATIENT, "--key-file", key_file)
    assert run.code == 0
    assert run.json["replies"][0]["payload"] == "\0" * 300_000


def test_an_interrupt_prints_what_came(tmp_path: Path, pods: Callable[..., list[Pod]]) -> None:
    (mute,) = pods(1)
    with handled_by(lambda message: b"pong") as endpoint:
        arguments = ("query", "-s", f"{endpoint},{mute.endpoint}", "-m", "ping", *PATIENT)
        with running(tmp_path, *arguments) as query:
            query.wait_until(lambda: "pong" in query.out)
            run = query.stop(signal.SIGINT)
    assert (run.code, run.err) == (130, "")
    assert "pong" in run.out
    assert run.out.endswith("; 1 silent; interrupted\n")


def test_a_pod_that_replies_nothing_has_failed() -> None:
    with Receiver(0, host="127.0.0.1") as receiver:
        endpoint = str(receiver.address)
        thread = threading.Thread(target=lambda: [None for _ in receiver])
        thread.start()
        run = invoke("query", "-s", endpoint, "-m", "x", *PATIENT)
        receiver.stop()
        thread.join()
    assert run.code == 4
    failed, summary = run.out.splitlines()
    assert failed == f"failed at {endpoint}: the handler did not reply"
    assert summary.startswith("0 of 1 endpoint replied in ")
    assert summary.endswith("; 1 failed")


@pytest.mark.parametrize("output", ["text", "json"])
def test_an_interrupt_before_pods_are_known_says_so(
    refusing_nameserver: str, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    endpoints = Refresher.endpoints

    def interrupted(refresher: Refresher) -> Known:
        signal.raise_signal(signal.SIGINT)
        return endpoints(refresher)

    monkeypatch.setattr(Refresher, "endpoints", interrupted)
    run = invoke("query", "-s", "pods.example.", "--nameserver", refusing_nameserver, "-m", "ping", "-o", output)
    assert (run.code, run.err) == (130, "")
    if output == "text":
        assert run.out == "interrupted: nothing is known about any pod\n"
    else:
        report = run.json
        assert report.pop("elapsed") > 0
        assert report == {
            "service": "pods.example.", "bytes": 4, "answer_age": None, "stale": None, "complete": False,
            "replies": [], "failed": [], "refused": [], "dropped": [], "silent": [], "left": [],
        }  # fmt: skip


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
    assert part in invoke("query", *arguments).assert_one_sentence(code)


def test_an_error_is_json_too(refusing_nameserver: str) -> None:
    run = invoke("query", "-s", "127.0.0.999", "-m", "x", "-o", "json")
    assert run.json["exit_code"] == run.code == 2
    run = invoke("query", "-s", "headless-udp", "-m", "x", "-o", "json", "--nameserver", refusing_nameserver)
    assert run.json["exit_code"] == run.code == 1


def test_completion_knows_query() -> None:
    assert "query" in invoke(_FANOUT_COMPLETE="bash_complete", COMP_WORDS="fanout qu", COMP_CWORD="1").out
    run = invoke(_FANOUT_COMPLETE="bash_complete", COMP_WORDS="fanout query --ti", COMP_CWORD="2")
    assert "--timeout" in run.out
