"""The main job on real containers: send to every pod, scale, lose one, stop."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import until
from tests.system.containers.cluster import all_have_received, exit_code, log_lines, received, run

if TYPE_CHECKING:
    from tests.system.containers.cluster import Cluster

pytestmark = pytest.mark.containers


def test_every_receiver_gets_the_message_through_scaling_and_loss(cluster: Cluster) -> None:
    cluster.scale(2)
    pods = {cluster.endpoint(receiver) for receiver in cluster.receivers}

    result = cluster.send("test")
    assert (result.code, result.err) == (0, "")
    *lines, summary = result.out.splitlines()
    assert set(lines) == {f"sent message to {pod}" for pod in pods}
    assert "2 pods" in summary
    all_have_received(cluster.receivers, "test")
    for index, receiver in enumerate(cluster.receivers):
        [line] = [line for line in log_lines(receiver) if line["event"] == "message_received"]
        assert line["pod"] == f"statefulset-udp-server-{index}"
        assert line["namespace"] == "udp"
        assert line["size"] == 4
        assert line["source"].partition(":")[0] == cluster.endpoint(cluster.sender).partition(":")[0]

    cluster.scale(5)
    assert cluster.send("to all five").code == 0
    all_have_received(cluster.receivers[:2], "test", "to all five")
    all_have_received(cluster.receivers[2:], "to all five")

    *others, killed = cluster.receivers
    gone = cluster.endpoint(killed)
    killed.get_wrapped_container().kill()
    exit_code(killed)
    result = cluster.send("to four", "-o", "json")
    assert (result.code, result.err) == (0, "")
    report = json.loads(result.out)
    assert report["service"] == "headless-udp"
    assert (report["messages"], report["bytes"]) == (1, 7)
    assert {entry["endpoint"] for entry in report["endpoints"]} == {cluster.endpoint(receiver) for receiver in others}
    assert gone not in result.out
    assert {entry["status"] for entry in report["endpoints"]} == {"sent"}
    all_have_received(others[:2], "test", "to all five", "to four")
    all_have_received(others[2:], "to all five", "to four")
    assert received(killed) == ["to all five"]


def test_endpoint_that_does_not_listen_is_refused_and_costs_no_other_its_copy(cluster: Cluster) -> None:
    cluster.scale(2)
    deaf = cluster.container(cluster.images.sender)
    with deaf:
        refusing = cluster.endpoint(deaf)
        result = cluster.send("half heard", "-o", "json")
        assert result.code == 4, result
        statuses = {entry["endpoint"]: entry["status"] for entry in json.loads(result.out)["endpoints"]}
        assert statuses == {refusing: "refused"} | {cluster.endpoint(pod): "sent" for pod in cluster.receivers}
        all_have_received(cluster.receivers, "half heard")


def test_hostile_payload_stays_one_line_of_strict_json(cluster: Cluster) -> None:
    cluster.scale(1)
    [receiver] = cluster.receivers
    hostile = ['NaN\n{"event":"forged"}', "\x1b[2J\x1b]0;title\x07", '"}\u2028,', "\\u0000"]
    for payload in hostile:
        assert cluster.send(payload).code == 0
    all_have_received([receiver], *hostile)
    out, _ = receiver.get_logs()
    assert b"\x1b" not in out


def test_environment_of_the_sender_pod_makes_the_short_command_enough(cluster: Cluster) -> None:
    cluster.scale(1)
    assert run(cluster.sender, "fanout", "send", "-m", "short").code == 0
    all_have_received(cluster.receivers, "short")


def test_stopping_receiver_drains_and_exits_0(cluster: Cluster) -> None:
    cluster.scale(1)
    [receiver] = cluster.receivers
    started = time.monotonic()
    receiver.get_wrapped_container().kill(signal="SIGTERM")
    until(lambda: any(line["event"] == "receiver_draining" for line in log_lines(receiver)), "the drain is logged")
    assert run(receiver, "fanout", "healthcheck").code == 1
    assert run(receiver, "fanout", "healthcheck", "--live").code == 0
    assert cluster.send("late").code == 0
    assert exit_code(receiver) == 0
    assert time.monotonic() - started < 5, "2 s of drain, and little more"
    assert received(receiver) == ["late"]
    assert log_lines(receiver)[-1]["event"] == "receiver_stopped"


def test_stopping_sender_exits_0_at_once(cluster: Cluster) -> None:
    started = time.monotonic()
    cluster.sender.get_wrapped_container().stop(timeout=10)
    assert exit_code(cluster.sender) == 0
    assert time.monotonic() - started < 2
    ready, stopped = log_lines(cluster.sender)
    assert (ready["event"], ready["pod"]) == ("sender_ready", "sender")
    assert "fanout send -s headless-udp -m msg" in ready["hint"]
    assert (stopped["event"], stopped["signal"]) == ("sender_stopped", "SIGTERM")
