"""`fanout local` as people use it: real processes, real commands, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dns.nameserver
import dns.resolver
import pytest

from tests.support.ports import free_port
from tests.support.waiting import until

POD = "statefulset-udp-server"


def lives(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


class Local:
    """The commands, with a state directory and a port of their own."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FANOUT_", "KUBERNETES_"))}
        # FANOUT_PID: a test run that is killed leaves nothing running.
        self.environment = {
            **kept,
            "FANOUT_LOCAL_DIR": str(directory),
            "FANOUT_PID": str(os.getpid()),
            "FANOUT_DRAIN": "0.1",
        }

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "fanout", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **settings,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command; return what it printed, or the one sentence it complained with."""
        with self.start(*arguments) as process:
            output, errors = process.communicate(timeout=30)
        assert process.returncode == code, errors
        if code:
            assert not output
            assert errors.count("\n") == 1, errors
            assert errors.startswith("fanout: ")
        assert "Traceback" not in errors
        return errors if code else output

    def up(self, replicas: int = 2) -> None:
        self.run("local", "up", "--detach", "--replicas", str(replicas), "--port", str(self.port))

    def status(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.run("local", "status", "-o", "json"))
        return values

    def pods(self) -> dict[str, dict[str, Any]]:
        return {pod["name"]: pod for pod in self.status()["pods"]}

    def processes(self) -> list[int]:
        status = self.status()
        return [status["pid"], *(pod["pid"] for pod in status["pods"])]

    def sent(self, message: str, *, code: int = 0) -> set[str]:
        """Send, and return the pods that were sent to."""
        with self.start("send", "-s", "headless-udp", "-p", str(self.port), "-m", message) as process:
            output, errors = process.communicate(timeout=30)
        assert process.returncode == code, errors
        return set(re.findall(r"^sent message to (127\.\S+):\d+$", output, re.MULTILINE))

    def having_logged(self, payload: str) -> set[str]:
        events = [json.loads(text) for text in self.run("local", "logs", "-o", "json").splitlines()]
        return {event["pod"] for event in events if event.get("payload") == payload}

    def assert_nothing_is_left(self, processes: list[int]) -> None:
        until(lambda: not any(map(lives, processes)))
        assert not self.directory.exists()


@pytest.fixture
def local() -> Iterator[Local]:
    parent = Path(tempfile.mkdtemp(prefix="fanout-test-"))
    local = Local(parent / "state", free_port())
    try:
        yield local
    finally:
        with local.start("local", "down") as process:
            process.communicate(timeout=30)
        shutil.rmtree(parent)


def test_the_story(local: Local) -> None:
    local.up(2)
    assert local.sent("first") == {"127.0.0.11", "127.0.0.12"}
    until(lambda: local.having_logged("first") == {f"{POD}-0", f"{POD}-1"})

    output = local.run("local", "scale", "4")
    assert [line for line in output.splitlines() if line.startswith("joined: ")] == [
        f"joined: {POD}-{n} 127.0.0.{11 + n}:{local.port}" for n in (2, 3)
    ]
    assert len(local.sent("second")) == 4
    until(lambda: len(local.having_logged("second")) == 4)
    shown = local.run("local", "logs", "--tail", "1")
    assert re.findall(r"^(\S+) \| \S+ message_received .* payload=second$", shown, re.MULTILINE)
    assert local.run("local", "logs", f"{POD}-3").startswith(tuple("012"))

    removed = [pod["pid"] for name, pod in local.pods().items() if name != f"{POD}-0"]
    local.run("local", "scale", "1")
    assert list(local.pods()) == [f"{POD}-0"]
    assert not any(map(lives, removed))
    assert local.sent("third") == {"127.0.0.11"}

    local.run("local", "scale", "0")
    assert local.sent("fourth", code=3) == set()
    assert "0 of 0 pods ready" in local.run("local", "status")

    local.run("local", "scale", "1")
    processes = local.processes()
    local.run("local", "down")
    local.assert_nothing_is_left(processes)


def test_a_receiver_that_dies_is_restarted_as_the_same_pod(local: Local) -> None:
    local.up(2)
    before = local.pods()
    os.kill(before[f"{POD}-0"]["pid"], signal.SIGKILL)
    pod = until(lambda: (pod := local.pods()[f"{POD}-0"]) and pod["restarts"] == 1 and pod["ready"] and pod)
    assert pod["address"] == before[f"{POD}-0"]["address"]
    assert pod["pid"] != before[f"{POD}-0"]["pid"]
    other = local.pods()[f"{POD}-1"]
    assert (other["pid"], other["restarts"]) == (before[f"{POD}-1"]["pid"], 0)
    assert "was killed by SIGKILL" in local.run("local", "logs", f"{POD}-0")
    assert len(local.sent("again")) == 2


def test_a_stopped_receiver_leaves_dns_while_it_drains(local: Local) -> None:
    local.run("local", "up", "-d", "-r", "2", "-p", str(local.port), "--drain", "1")
    os.kill(local.pods()[f"{POD}-1"]["pid"], signal.SIGTERM)
    until(lambda: local.sent("x") == {"127.0.0.11"})
    until(lambda: local.pods()[f"{POD}-1"]["restarts"] == 1)


def test_no_child_outlives_a_supervisor_that_was_killed(local: Local) -> None:
    local.up(3)
    supervisor, *receivers = local.processes()
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not any(map(lives, receivers)))
    assert "no local headless Service is running" in local.run("local", "status", code=1)
    local.up(1)
    assert list(local.pods()) == [f"{POD}-0"]
    processes = local.processes()
    local.run("local", "down")
    local.assert_nothing_is_left(processes)


def in_the_foreground(local: Local) -> tuple[subprocess.Popen[str], list[int]]:
    del local.environment["FANOUT_PID"]
    process = local.start("local", "up", "-p", str(local.port), start_new_session=True)
    until(lambda: (local.directory / "local.conf").exists())
    return process, local.processes()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP, "down"])
def test_up_shows_the_logs_until_it_is_told_to_stop(local: Local, how: signal.Signals | str) -> None:
    process, processes = in_the_foreground(local)
    local.sent("hello")
    until(lambda: len(local.having_logged("hello")) == 2)
    if isinstance(how, str):
        local.run("local", how)
    else:
        os.killpg(process.pid, how)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 0, errors
    assert f"fanout send -s headless-udp -p {local.port} -m hi" in output
    assert str(local.directory) in output
    for pod in (f"{POD}-0", f"{POD}-1"):
        for event in ("receiver_started", "message_received", "receiver_draining", "receiver_stopped"):
            assert re.search(rf"^{pod} \| .*{event}", output, re.MULTILINE), output
    assert output.endswith("headless-udp is down\n")
    local.assert_nothing_is_left(processes)


def test_killing_up_takes_everything_down(local: Local) -> None:
    process, processes = in_the_foreground(local)
    process.kill()
    process.communicate()
    local.assert_nothing_is_left(processes)


def test_up_says_when_its_supervisor_is_lost(local: Local) -> None:
    process, (supervisor, *receivers) = in_the_foreground(local)
    os.kill(supervisor, signal.SIGKILL)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "was killed by SIGKILL" in errors
    assert not any(map(lives, receivers))


def test_up_ends_where_nobody_reads_it(local: Local) -> None:
    process, processes = in_the_foreground(local)
    assert process.stdout is not None
    process.stdout.close()
    local.sent("into a broken pipe")
    assert process.wait(timeout=10) == 1
    local.assert_nothing_is_left(processes)
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_the_service_ends_with_the_process_that_was_named(local: Local) -> None:
    with subprocess.Popen(["sleep", "60"]) as owner:
        local.environment["FANOUT_PID"] = str(owner.pid)
        local.up(1)
        processes = local.processes()
        owner.kill()
    local.assert_nothing_is_left(processes)


def test_logs_are_followed_until_the_end(local: Local) -> None:
    local.up(1)
    with local.start("local", "logs", "-f", "--tail", "0", "-o", "json") as following:
        assert following.stdout is not None
        written = [following.stdout]
        until(lambda: local.sent("hello") and select.select(written, [], [], 0)[0])
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
    local.up(3)
    values = local.status()
    host, _, port = values["nameserver"].partition(":")
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [dns.nameserver.Do53Nameserver(host, int(port))]
    addresses = {str(record) for record in resolver.resolve(values["name"], "A")}
    assert addresses == {"127.0.0.11", "127.0.0.12", "127.0.0.13"}
    srv = resolver.resolve(f"_udp._udp.{values['name']}", "SRV")
    assert {(record.port, str(record.target)) for record in srv} == {
        (local.port, f"{POD}-{n}.{values['name']}.") for n in range(3)
    }
    pods = [resolver.resolve(record.target, "A")[0] for record in srv]
    assert {str(record) for record in pods} == addresses
    with pytest.raises(dns.resolver.NoAnswer):
        resolver.resolve(values["name"], "AAAA")
    local.run("local", "scale", "0")
    with pytest.raises(dns.resolver.NXDOMAIN):
        resolver.resolve(values["name"], "A")


@pytest.mark.parametrize("command", [["status"], ["scale", "3"], ["logs"], ["down"]])
def test_commands_say_where_nothing_runs(local: Local, command: list[str]) -> None:
    assert "start one with `fanout local up`" in local.run("local", *command, code=1)


def test_wrong_commands_get_one_sentence(local: Local) -> None:
    assert "not in the range 0<=x<=100" in local.run("local", "up", "-r", "101", code=2)
    assert "not in the range 0<=x<=100" in local.run("local", "scale", "101", code=2)
    assert "there is no process" in local.run("local", "up", "-d", "--pid", "4194304", code=1)
    assert not local.directory.exists()
    local.up(0)
    assert "there is no pod now" in local.run("local", "logs", "nope", code=1)
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
        other.bind(("127.0.0.12", local.port))
        local.up(2)
        assert [pod["address"] for pod in local.pods().values()] == ["127.0.0.11", "127.0.0.13"]


def test_the_demo_plays_the_whole_story(local: Local) -> None:
    with local.start("local", "demo") as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    commands = re.findall(r"^\$ fanout (?:local )?(\w+)", output, re.MULTILINE)
    assert commands == ["up", "send", "logs", "scale", "send", "logs", "down"]
    assert len(re.findall(r'^\S+-[0-4] \| .*payload="hello to all five"$', output, re.MULTILINE)) == 5
    assert not Path(demo_directory(output)).exists()


@pytest.mark.parametrize(
    ("moment", "how"), [("up", signal.SIGTERM), ("send", signal.SIGINT), ("scale", signal.SIGTERM)]
)
def test_a_demo_that_is_interrupted_leaves_nothing(local: Local, moment: str, how: signal.Signals) -> None:
    with local.start("local", "demo", start_new_session=True) as process:
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if line.startswith("$ fanout ") and moment in line:
                break
        os.killpg(process.pid, how) if how is signal.SIGINT else process.send_signal(how)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert not Path(demo_directory(output)).exists()
    until(lambda: not processes_with(demo_directory(output)))


def demo_directory(output: str) -> str:
    match = re.search(r"FANOUT_LOCAL_DIR=(\S+)", output)
    assert match is not None
    return match[1]


def processes_with(text: str) -> list[int]:
    """Return the processes that have a text in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if text.encode() in path.read_bytes() and lives(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found
