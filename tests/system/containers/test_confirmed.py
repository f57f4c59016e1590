"""Did every pod get it? Confirmed messages and queries between containers, one of which hangs or dies meanwhile."""

from __future__ import annotations

import json
import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import until
from tests.system.containers.cluster import SERVICE, Result, events, restricted, run, started

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

    from tests.system.containers.cluster import Cluster

pytestmark = pytest.mark.containers

FOR_LONG = "3600"
"""Seconds that answers are waited for where they do come."""


def test_a_paused_pod_is_named_and_hands_the_message_over_at_most_once(cluster: Cluster) -> None:
    cluster.at_least(3)
    pods = {cluster.endpoint(receiver) for receiver in cluster.receivers}
    result = cluster.send("to all", "--confirm", "--timeout", FOR_LONG, "-o", "json")
    assert (result.code, result.err) == (0, "")
    assert {one["endpoint"] for one in json.loads(result.out)["endpoints"] if one["status"] == "confirmed"} == pods

    *_, paused = cluster.receivers
    silent = cluster.endpoint(paused)
    paused.get_wrapped_container().pause()
    sent: list[str] = []

    def all_others_confirm() -> bool:
        sent.append(f"to the others {len(sent)}")
        result = cluster.send(sent[-1], "--confirm", "--timeout", "3")
        assert result.code == 4
        *lines, summary = result.out.splitlines()
        assert [line for line in lines if silent in line and "silent" in line]
        if sum(line.startswith("confirmed") for line in lines) < len(pods) - 1:
            return False
        assert f"to {len(pods)} pods of headless-udp: {len(pods) - 1} confirmed, 1 silent" in summary
        return True

    try:
        until(all_others_confirm, "the others confirm within three seconds")
    finally:
        paused.get_wrapped_container().unpause()
    # What it got while it was paused was one message, sent several times; what is sent now comes behind that.
    assert cluster.send("after", "--confirm", "--timeout", FOR_LONG).code == 0
    cluster.all_have_received(cluster.receivers, "to all", *sent, "after")


def info(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Ask every pod for what it is and what it has counted."""
    asked = run(cluster.sender, "fanout", "query", "-s", SERVICE, "-m", "info", "--timeout", FOR_LONG, "-o", "json")
    assert (asked.code, asked.err) == (0, "")
    return {reply["endpoint"]: reply["json"] for reply in json.loads(asked.out)["replies"]}


def test_every_pod_tells_its_counters(cluster: Cluster) -> None:
    cluster.at_least(3)
    before = info(cluster)
    assert cluster.send("one", "--confirm", "--timeout", FOR_LONG).code == 0
    after = info(cluster)
    names = {cluster.endpoint(receiver): receiver.env["POD_NAME"] for receiver in cluster.receivers}
    assert {endpoint: told["pod"] for endpoint, told in after.items()} == names
    for endpoint, told in after.items():
        assert told["counters"]["confirmed"] == before[endpoint]["counters"]["confirmed"] + 1


def test_a_pod_that_is_killed_while_it_works_is_named(cluster: Cluster, tmp_path: Path) -> None:
    """The network of a pod outlives its container, which the kubelet would start again: here a container has it."""
    cluster.at_least(1)
    others = {cluster.endpoint(receiver) for receiver in cluster.receivers}
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    gate.chmod(0o666)
    survivor = cluster.receiver(FANOUT_EXEC="cat /gate", FANOUT_EXEC_TIMEOUT="3600")
    survivor.with_volume_mapping(str(gate), "/gate", "ro")
    done: list[Result] = []

    def ask() -> None:
        # Who had said that it works is waited for as long, whatever ICMP says: it may be stopping. Others are refused.
        command = ["fanout", "query", "-s", SERVICE, "-m", "work", "--timeout", "60", "-o", "json"]
        done.append(run(cluster.sender, *command))

    with started(survivor), started(cluster.container(cluster.images.sender)) as network:
        inside = f"container:{network.get_wrapped_container().id}"
        doomed = restricted(cluster.images.receiver, network_mode=inside)
        doomed.with_envs(FANOUT_EXEC="tail -f /dev/null", FANOUT_EXEC_TIMEOUT="3600")
        with started(doomed):
            for each in (survivor, doomed):
                until(partial(events, each, "receiver_started"), "it is ready")
            asking = threading.Thread(target=ask)
            asking.start()
            try:
                for each, program in ((survivor, "cat /gate"), (doomed, "tail -f")):
                    until(partial(runs, each, program), "it works")
                doomed.get_wrapped_container().kill()
            finally:
                gate.write_text("done")
                asking.join()
        assert done[0].code == 4
        answer = json.loads(done[0].out)
        assert [reply["endpoint"] for reply in answer["replies"]] == [cluster.endpoint(survivor)]
        named = [one["endpoint"] for one in [*answer["silent"], *answer["refused"]]]
        assert named == [cluster.endpoint(network)], "who died is named"
        assert {one["endpoint"] for one in answer["failed"]} == others, "they have no handler for it"


def runs(container: DockerContainer, program: str) -> bool:
    """Whether a program runs in a container."""
    return any(program in " ".join(process) for process in container.get_wrapped_container().top()["Processes"])


def test_sealed_pods_answer_only_who_has_the_key(cluster: Cluster, tmp_path: Path) -> None:
    made = run(cluster.sender, "fanout", "keygen")
    assert made.code == 0
    key = tmp_path / "key"
    key.write_text(made.out)
    key.chmod(0o644)
    sealed = cluster.container(cluster.images.receiver, FANOUT_KEY_FILE="/etc/fanout/key", POD_NAME="sealed")
    sealed.with_volume_mapping(str(key), "/etc/fanout/key", "ro")
    asker = cluster.container(cluster.images.sender).with_volume_mapping(str(key), "/etc/fanout/key", "ro")
    with started(sealed), started(asker):
        until(partial(events, sealed, "receiver_started"), "it is ready")
        to = cluster.endpoint(sealed)
        plain = run(asker, "fanout", "query", "-s", to, "-m", "ping", "--timeout", "0.5")
        assert (plain.code, "silent" in plain.out) == (4, True)
        with_key = ("--key-file", "/etc/fanout/key", "--timeout", FOR_LONG)
        answered = run(asker, "fanout", "query", "-s", to, "-m", "ping", *with_key)
        assert (answered.code, "pong" in answered.out) == (0, True)
        told = run(asker, "fanout", "query", "-s", to, "-m", "info", *with_key, "-o", "json")
        counters = json.loads(told.out)["replies"][0]["json"]["counters"]
        assert counters["refused"]["unsealed"] > 0
        assert counters["replied"] == 1, "only who has the key"
