"""`fanout local` as people use it: real processes, real commands, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
from collections.abc import Iterator

import dns.nameserver
import dns.resolver
import pytest

from tests.support.local import POD, Local, lives, local_service, until_ended
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def local() -> Iterator[Local]:
    with local_service() as made:
        yield made


def test_the_story(local: Local) -> None:
    with local.start("local", "up", "--detach", "--replicas", "1", "--port", str(local.port)) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert f"{POD}-0  127.0.0.11:{local.port}" in output
    assert local.sent("first") == {"127.0.0.11"}
    until(lambda: local.having_logged("first") == {f"{POD}-0"}, "it is logged")

    output = local.run("local", "scale", "3")
    assert [line for line in output.splitlines() if line.startswith("joined: ")] == [
        f"joined: {POD}-{n} 127.0.0.{11 + n}:{local.port}" for n in (1, 2)
    ]
    assert len(local.sent("second")) == 3
    until(lambda: len(local.having_logged("second")) == 3, "it is logged")
    shown = local.run("local", "logs", "--tail", "1")
    assert re.findall(r"^(\S+) \| \S+ message_received .* payload=second$", shown, re.MULTILINE)
    assert local.run("local", "logs", f"{POD}-2").startswith(tuple("012"))

    removed = [pod["pid"] for name, pod in local.pods().items() if name != f"{POD}-0"]
    assert len(removed) == 2
    local.run("local", "scale", "1")
    assert list(local.pods()) == [f"{POD}-0"]
    assert not any(map(lives, removed))
    assert local.sent("third") == {"127.0.0.11"}
    assert "1 of 1 pod ready" in local.run("local", "status")

    processes = local.processes()
    local.run("local", "down")
    local.assert_nothing_is_left(processes)


def test_a_receiver_that_dies_is_restarted_as_the_same_pod(local: Local) -> None:
    local.up(2)
    before = local.pods()
    os.kill(before[f"{POD}-0"]["pid"], signal.SIGKILL)
    pod = until(lambda: (pod := local.pods()[f"{POD}-0"])["restarts"] == 1 and pod["ready"] and pod, "a restart")
    assert pod["address"] == before[f"{POD}-0"]["address"]
    assert pod["pid"] != before[f"{POD}-0"]["pid"]
    other = local.pods()[f"{POD}-1"]
    assert (other["pid"], other["restarts"]) == (before[f"{POD}-1"]["pid"], 0)
    assert "was killed by SIGKILL" in local.run("local", "logs", f"{POD}-0")
    assert len(local.sent("again")) == 2


def test_a_stopped_receiver_leaves_dns_while_it_drains(local: Local) -> None:
    local.up(2, drain=PATIENCE)
    pid = local.pods()[f"{POD}-1"]["pid"]
    os.kill(pid, signal.SIGTERM)
    until(lambda: local.sent("x") == {"127.0.0.11"}, "the other pod alone is sent to")
    draining = local.pods()[f"{POD}-1"]
    assert (draining["pid"], draining["ready"]) == (pid, False)
    # Told twice, it does not drain to the end.
    os.kill(pid, signal.SIGTERM)
    until(lambda: local.pods()[f"{POD}-1"]["restarts"] == 1, "a restart")
    assert "ended with exit code 0" in local.run("local", "logs", f"{POD}-1")


def test_no_child_outlives_a_supervisor_that_was_killed(local: Local) -> None:
    local.up(2)
    supervisor, *receivers = local.processes()
    os.kill(supervisor, signal.SIGKILL)
    until_ended([supervisor, *receivers])
    assert "no local headless Service is running" in local.run("local", "status", code=1)
    local.up(0)
    assert local.pods() == {}
    processes = local.processes()
    local.run("local", "down")
    local.assert_nothing_is_left(processes)


@pytest.mark.parametrize(("how", "replicas"), [(signal.SIGINT, 2), (signal.SIGHUP, 1), ("down", 1)])
def test_up_shows_the_logs_until_it_is_told_to_stop(local: Local, how: signal.Signals | str, replicas: int) -> None:
    up = local.in_the_foreground(replicas)
    processes = local.processes()
    local.sent("hello")
    up.wait_until(lambda: up.out.count("message_received") == replicas)
    if isinstance(how, str):
        local.run("local", how)
    else:
        os.killpg(up.process.pid, how)
    run = up.end()
    assert (run.code, run.err) == (0, "")
    assert f"fanout send -s headless-udp -p {local.port} -m hi" in run.out
    assert str(local.directory) in run.out
    for pod in (f"{POD}-{number}" for number in range(replicas)):
        for event in ("receiver_started", "message_received", "receiver_draining", "receiver_stopped"):
            assert re.search(rf"^{pod} \| .*{event}", run.out, re.MULTILINE), run.out
    assert run.out.endswith("headless-udp is down\n")
    local.assert_nothing_is_left(processes)


def test_killing_up_takes_everything_down(local: Local) -> None:
    up = local.in_the_foreground()
    processes = local.processes()
    up.process.kill()
    up.end()
    local.assert_nothing_is_left(processes)


def test_up_says_when_its_supervisor_is_lost(local: Local) -> None:
    up = local.in_the_foreground()
    supervisor, *receivers = local.processes()
    os.kill(supervisor, signal.SIGKILL)
    run = up.end()
    assert run.code == 1
    assert "was killed by SIGKILL" in run.err
    # The kernel has told them to end by then, and a moment later they have.
    until_ended(receivers)


def test_up_ends_where_nobody_reads_it(local: Local) -> None:
    process = local.start("local", "up", "-r", "1", "-p", str(local.port))
    assert process.stdout is not None
    assert any("receiver_started" in line for line in process.stdout)
    processes = local.processes()
    process.stdout.close()
    local.sent("into a broken pipe")
    assert process.wait(timeout=PATIENCE) == 1
    local.assert_nothing_is_left(processes)
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_the_service_ends_with_the_process_that_was_named(local: Local) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as owner:
        local.variables["FANOUT_PID"] = str(owner.pid)
        with local.start("local", "up", "-d", "-r", "1", "-p", str(local.port)) as process:
            _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        processes = local.processes()
    local.assert_nothing_is_left(processes)


def test_logs_are_followed_until_the_end(local: Local) -> None:
    local.up(1)
    following = local.start("local", "logs", "-f", "--tail", "0", "-o", "json")
    assert following.stdout is not None
    written = [following.stdout]
    until(lambda: local.sent("hello") and select.select(written, [], [], 0)[0], "the message is shown")
    local.run("local", "scale", "2")
    local.run("local", "down")
    events = [json.loads(line) for line in following.stdout]
    assert following.wait() == 0
    assert {(event["event"], event["pod"]) for event in events} >= {
        ("message_received", f"{POD}-0"),
        ("receiver_started", f"{POD}-1"),
        ("receiver_draining", f"{POD}-1"),
        ("receiver_stopped", f"{POD}-0"),
    }


def test_dns_answers_for_the_pods_that_are_ready(local: Local) -> None:
    local.up(2)
    values = local.status()
    host, _, port = values["nameserver"].partition(":")
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [dns.nameserver.Do53Nameserver(host, int(port))]
    resolver.timeout = resolver.lifetime = PATIENCE
    addresses = {str(record) for record in resolver.resolve(values["name"], "A")}
    assert addresses == {"127.0.0.11", "127.0.0.12"}
    srv = resolver.resolve(f"_udp._udp.{values['name']}", "SRV")
    assert {(record.port, str(record.target)) for record in srv} == {
        (local.port, f"{POD}-{n}.{values['name']}.") for n in range(2)
    }
    pods = [resolver.resolve(record.target, "A")[0] for record in srv]
    assert {str(record) for record in pods} == addresses
    with pytest.raises(dns.resolver.NoAnswer):
        resolver.resolve(values["name"], "AAAA")

    local.run("local", "scale", "0")
    with pytest.raises(dns.resolver.NXDOMAIN):
        resolver.resolve(values["name"], "A")
    assert "0 of 0 pods ready" in local.run("local", "status")
    message = ("send", "-q", "-s", "headless-udp", "-p", str(local.port), "-m", "nobody")
    assert "no endpoints" in local.run(*message, code=3)


@pytest.mark.parametrize("command", [["status"], ["scale", "3"], ["logs"], ["down"]])
def test_commands_say_where_nothing_runs(local: Local, command: list[str]) -> None:
    assert "start one with `fanout local up`" in local.run("local", *command, code=1)


def test_wrong_commands_get_one_sentence(local: Local) -> None:
    assert "not in the range 0<=x<=100" in local.run("local", "up", "-r", "101", code=2)
    assert "not in the range 0<=x<=100" in local.run("local", "scale", "101", code=2)
    assert "--pid must be a running process; got 4194304" in local.run("local", "up", "-d", "--pid", "4194304", code=1)
    assert not local.directory.exists()
    local.up(0)
    assert "there are no pods now" in local.run("local", "logs", "nope", code=1)
    local.run("local", "scale", "1")
    assert f"the pods are {POD}-0" in local.run("local", "logs", "nope", code=1)
    assert "is running already" in local.run("local", "up", code=1)
    assert len(local.pods()) == 1


def test_a_port_that_is_taken_everywhere_is_named(local: Local) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", local.port))
        error = local.run("local", "up", "-p", str(local.port), code=1)
    assert f"UDP port {local.port} is taken on every address" in error
    assert "choose another port (--port)" in error
    assert not local.directory.exists()


def test_an_address_that_is_taken_is_passed_over(local: Local) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.11", local.port))
        local.up(1)
        assert [pod["address"] for pod in local.pods().values()] == ["127.0.0.12"]
