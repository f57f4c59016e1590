"""Did every pod get it? Confirmed messages and queries between containers, one of which hangs or dies meanwhile."""

from __future__ import annotations

import json
import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import until
from tests.system.containers.cluster import Result, is_ready, received, run

if TYPE_CHECKING:
    from tests.system.containers.cluster import Cluster

pytestmark = pytest.mark.containers


def test_a_paused_pod_is_named_and_hands_the_message_over_at_most_once(cluster: Cluster) -> None:
    cluster.scale(5)
    pods = {cluster.endpoint(receiver) for receiver in cluster.receivers}
    result = cluster.send("to five", "--confirm", "-o", "json")
    assert (result.code, result.err) == (0, "")
    assert {one["endpoint"] for one in json.loads(result.out)["endpoints"] if one["status"] == "confirmed"} == pods

    *_, paused = cluster.receivers
    silent = cluster.endpoint(paused)
    paused.get_wrapped_container().pause()
    try:
        started = time.monotonic()
        result = cluster.send("to four", "--confirm", "--timeout", "2")
        took = time.monotonic() - started
    finally:
        paused.get_wrapped_container().unpause()
    assert result.code == 4
    assert 2 <= took < 4, "the time that was given, and little more for the command itself"
    *lines, summary = result.out.splitlines()
    assert sum(line.startswith("confirmed") for line in lines) == 4
    assert [line for line in lines if silent in line and "silent" in line]
    assert "to 5 pods of headless-udp: 4 confirmed, 1 silent" in summary
    # What it got while it was paused was one message, sent several times.
    until(lambda: received(paused)[1:], "it is handed over")
    time.sleep(0.5)
    assert received(paused) == ["to five", "to four"]
    assert {tuple(received(receiver)) for receiver in cluster.receivers} == {("to five", "to four")}


def test_every_pod_tells_its_counters_and_one_that_is_killed_meanwhile_is_named(cluster: Cluster) -> None:
    cluster.scale(3)
    pods = {cluster.endpoint(receiver): f"statefulset-udp-server-{n}" for n, receiver in enumerate(cluster.receivers)}
    cluster.send("one", "--confirm")
    result = run(cluster.sender, "fanout", "query", "-s", "headless-udp", "-m", "info", "-o", "json")
    assert (result.code, result.err) == (0, "")
    replies = {reply["endpoint"]: reply["json"] for reply in json.loads(result.out)["replies"]}
    assert {endpoint: info["pod"] for endpoint, info in replies.items()} == pods
    assert {info["counters"]["confirmed"] for info in replies.values()} == {1}

    # Those that take their time are asked; one of them does not live to answer.
    slow = [cluster.container(cluster.images.receiver, FANOUT_EXEC="sleep 2", FANOUT_DRAIN="0") for _ in range(2)]
    for receiver in slow:
        receiver.start()
        until(partial(is_ready, receiver), "it is ready")
    try:
        killed, survivor = map(cluster.endpoint, slow)
        done: list[Result] = []

        def ask() -> None:
            command = ["fanout", "query", "-s", "headless-udp", "-m", "work", "--timeout", "4", "-o", "json"]
            done.append(run(cluster.sender, *command))

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(1)
        slow[0].get_wrapped_container().kill()
        asking.join()
    finally:
        for receiver in slow:
            receiver.stop()
    assert done[0].code == 4
    answer = json.loads(done[0].out)
    assert [reply["endpoint"] for reply in answer["replies"]] == [survivor]
    named = [one["endpoint"] for one in [*answer["silent"], *answer["refused"]]]
    assert named == [killed], "who died is named"
    assert {one["endpoint"] for one in answer["failed"]} == set(pods), "the others have no handler for it"


def test_sealed_pods_answer_only_who_has_the_key(cluster: Cluster, tmp_path: os.PathLike[str]) -> None:
    made = run(cluster.sender, "fanout", "keygen")
    assert made.code == 0
    key = tmp_path / "key"  # type: ignore[operator]
    key.write_text(made.out)
    key.chmod(0o644)
    sealed = cluster.container(cluster.images.receiver, FANOUT_KEY_FILE="/etc/fanout/key", POD_NAME="sealed")
    sealed.with_volume_mapping(str(key), "/etc/fanout/key", "ro")
    asker = cluster.container(cluster.images.sender).with_volume_mapping(str(key), "/etc/fanout/key", "ro")
    with sealed, asker:
        until(partial(is_ready, sealed), "it is ready")
        to = cluster.endpoint(sealed)
        plain = run(asker, "fanout", "query", "-s", to, "-m", "ping", "--timeout", "1")
        assert (plain.code, "silent" in plain.out) == (4, True)
        answered = run(asker, "fanout", "query", "-s", to, "-m", "ping", "--key-file", "/etc/fanout/key")
        assert (answered.code, "pong" in answered.out) == (0, True)
