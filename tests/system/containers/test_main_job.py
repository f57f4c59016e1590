"""The main job on real containers: send to every pod, scale, lose one, stop."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import until
from tests.system.containers.cluster import events, exit_code, log_lines, run, started

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
    cluster.all_have_received(cluster.receivers, "test")
    for receiver in cluster.receivers:
        [line] = cluster.messages(receiver)
        assert line["pod"] == receiver.env["POD_NAME"]
        assert line["namespace"] == "udp"
        assert line["size"] == 4
        assert line["source"].partition(":")[0] == cluster.endpoint(cluster.sender).partition(":")[0]

    cluster.scale(5)
    assert cluster.send("to all five").code == 0
    cluster.all_have_received(cluster.receivers[:2], "test", "to all five")
    cluster.all_have_received(cluster.receivers[2:], "to all five")

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
    cluster.all_have_received(others[:2], "test", "to all five", "to four")
    cluster.all_have_received(others[2:], "to all five", "to four")
    assert cluster.received(killed) == ["to all five"]
    cluster.remove(killed)


def test_endpoint_that_does_not_listen_is_refused_and_costs_no_other_its_copy(cluster: Cluster) -> None:
    cluster.at_least(2)
    with started(cluster.container(cluster.images.sender)) as deaf:
        refusing = cluster.endpoint(deaf)
        sent: list[str] = []

        def is_refused() -> bool:
            sent.append(f"half heard {len(sent)}")
            result = cluster.send(sent[-1], "-o", "json", "--settle", "1")
            statuses = {entry["endpoint"]: entry["status"] for entry in json.loads(result.out)["endpoints"]}
            refused: bool = statuses.pop(refusing) == "refused"
            assert result.code == (4 if refused else 0), result
            assert statuses == {cluster.endpoint(pod): "sent" for pod in cluster.receivers}
            return refused

        until(is_refused, "the refusal is back within a second")
        cluster.all_have_received(cluster.receivers, *sent)


def test_hostile_payload_stays_one_line_of_strict_json(cluster: Cluster) -> None:
    cluster.at_least(1)
    hostile = ['NaN\n{"event":"forged"}', "\x1b[2J\x1b]0;title\x07", '"}\u2028,', "\\u0000"]
    for payload in hostile:
        assert cluster.send(payload).code == 0
    cluster.all_have_received(cluster.receivers, *hostile)
    for receiver in cluster.receivers:
        out, _ = receiver.get_logs()
        assert b"\x1b" not in out


def test_environment_of_the_sender_pod_makes_the_short_command_enough(cluster: Cluster) -> None:
    cluster.at_least(1)
    assert run(cluster.sender, "fanout", "send", "-m", "short").code == 0
    cluster.all_have_received(cluster.receivers, "short")


def test_stopping_receiver_drains_and_exits_0(cluster: Cluster) -> None:
    receiver = cluster.receiver(FANOUT_DRAIN="3600")
    with started(receiver):
        until(lambda: events(receiver, "receiver_started"), "it is ready")
        receiver.get_wrapped_container().kill(signal="SIGTERM")
        until(lambda: events(receiver, "receiver_draining"), "the drain is logged")
        assert run(receiver, "fanout", "healthcheck", "--timeout", "60") == (1, "draining\n", "")
        assert run(receiver, "fanout", "healthcheck", "--timeout", "60", "--live").code == 0
        assert cluster.send("late").code == 0
        until(lambda: cluster.received(receiver) == ["late"], "it receives while it drains")
        receiver.get_wrapped_container().kill(signal="SIGTERM")
        assert exit_code(receiver) == 0
        assert cluster.received(receiver) == ["late"]
        assert log_lines(receiver)[-1]["event"] == "receiver_stopped"


def test_a_drain_ends_by_itself(cluster: Cluster) -> None:
    cluster.at_least(1)
    receiver = cluster.receivers[-1]
    receiver.get_wrapped_container().kill(signal="SIGTERM")
    assert exit_code(receiver) == 0
    assert [line["event"] for line in log_lines(receiver)][-2:] == ["receiver_draining", "receiver_stopped"]


def test_stopping_sender_exits_0(cluster: Cluster) -> None:
    with started(cluster.another_sender(POD_NAME="sender")) as sender:
        until(lambda: log_lines(sender), "it is ready")
        sender.get_wrapped_container().kill(signal="SIGTERM")
        assert exit_code(sender) == 0
        ready, stopped = log_lines(sender)
    assert (ready["event"], ready["pod"]) == ("sender_ready", "sender")
    assert "fanout send -s headless-udp -m msg" in ready["hint"]
    assert (stopped["event"], stopped["signal"]) == ("sender_stopped", "SIGTERM")
