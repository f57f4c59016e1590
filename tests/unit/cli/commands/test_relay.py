"""`fanout relay`: what its options say together, and its answer to bad input. What it forwards: tests/system/relay."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import fanout.daemon.relay.program
from fanout.cli.main import main
from fanout.daemon.relay.program import RelaySettings
from fanout.local.state import LocalService
from fanout.relay.core.ingress import Ingress

MULTICAST = "mcast://224.0.67.67:5001@eth1"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RelaySettings]]:
    """The settings with which the app would have run."""
    runs: list[RelaySettings] = []
    monkeypatch.setattr(fanout.daemon.relay.program, "run", runs.append)
    monkeypatch.setenv("FANOUT_LOCAL_DIR", "/nonexistent")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield runs
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture
def relay_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("relay.yaml")
    path.write_text("service: a\ningresses:\n  - listen: udp://:5004\n    to_port: 7\n")
    return path


def settings(started: list[RelaySettings], *arguments: str) -> RelaySettings:
    assert main(["relay", *arguments]) == 0
    return started.pop()


def ingresses(started: list[RelaySettings], *arguments: str) -> list[tuple[str, str, int | None]]:
    return [(str(each), each.service, each.to_port) for each in settings(started, *arguments).ingresses]


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["relay", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_to_and_to_port_belong_to_the_listen_before_them(started: list[RelaySettings]) -> None:
    assert ingresses(
        started,
        "--listen", "udp://:1", "--to-port", "11", "--to", "b",
        "-s", "a",
        "--listen=udp://:2",
        "--listen", "udp://:3", "--limit", "5", "--to=c",
        "--listen", "udp://:4-5", "--to-port=44",
    ) == [
        ("udp://:1", "b", 11), ("udp://:2", "a", None), ("udp://:3", "c", None), ("udp://:4-5", "a", 44),
    ]  # fmt: skip


def test_the_defaults(started: list[RelaySettings]) -> None:
    assert settings(started, "-s", "a", "--listen", MULTICAST) == RelaySettings(
        ingresses=(Ingress.parse(MULTICAST, service="a"),), loop_guard=False, family="any", nameserver=None,
        allow_loopback=False, receive_buffer=4 * 1024 * 1024, interface_timeout=60.0, admin_host=None,
        admin_port=8080, drain=0.0, log_level="info", log_format="auto", log_file=None,
    )  # fmt: skip


def test_sources_and_limit_hold_for_all(started: list[RelaySettings]) -> None:
    said = ("--allow-source", "10.0.0.0/8", "--allow-source", "fd00::1", "--limit", "2.5")
    (one, other) = settings(started, *said, "-s", "a", "--listen", MULTICAST, "--listen", "udp://:1").ingresses
    assert (one.limit, one.allow_source) == (other.limit, other.allow_source)
    assert (one.limit, [str(each) for each in one.allow_source]) == (2.5, ["10.0.0.0/8", "fd00::1/128"])


def test_signals_wait_for_the_app(started: list[RelaySettings]) -> None:
    settings(started, "-s", "a", "--listen", MULTICAST)
    assert {signal.SIGTERM, signal.SIGINT} <= signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_the_environment(started: list[RelaySettings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANOUT_LISTEN", f" {MULTICAST}  udp://:1-2\n")
    monkeypatch.setenv("FANOUT_SERVICE", "a")
    assert ingresses(started) == [(MULTICAST, "a", None), ("udp://:1-2", "a", None)]
    monkeypatch.setenv("FANOUT_TO_PORT", "7")
    assert ingresses(started) == [(MULTICAST, "a", 7), ("udp://:1-2", "a", 7)]
    assert ingresses(started, "-s", "b", "--to-port", "8") == [(MULTICAST, "b", 8), ("udp://:1-2", "b", 8)]
    assert ingresses(started, "--listen", "udp://:3", "--listen", "udp://:4", "--to", "b") == [
        ("udp://:3", "a", 7), ("udp://:4", "b", 7),
    ]  # fmt: skip
    monkeypatch.setenv("FANOUT_ALLOW_SOURCE", "10.0.0.0/8 fd00::/8")
    monkeypatch.setenv("FANOUT_LOOP_GUARD", "1")
    said = settings(started)
    assert said.loop_guard
    assert len(said.ingresses[0].allow_source) == 2


def test_a_file_says_it_all(
    started: list[RelaySettings], relay_yaml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FANOUT_SERVICE", "of-other-commands")
    said = settings(started, "--config", str(relay_yaml), "--drain", "3")
    assert (str(said.ingresses[0]), said.ingresses[0].service, said.ingresses[0].to_port) == ("udp://:5004", "a", 7)
    assert (said.loop_guard, said.drain) == (False, 3.0)
    assert settings(started, "--config", str(relay_yaml), "--loop-guard").loop_guard
    relay_yaml.write_text(f"loop_guard: true\n{relay_yaml.read_text()}")
    assert settings(started, "--config", str(relay_yaml)).loop_guard
    for more in (
        ("--listen", "udp://:1"), ("--to", "b"), ("--to-port", "1"), ("-s", "b"), ("--limit", "1"),
        ("--allow-source", "10.0.0.0/8"),
    ):  # fmt: skip
        assert "and --config exclude each other: give one" in complaint(capsys, "--config", str(relay_yaml), *more)
    # Whoever set this means it: it is not to be left out because a file says nothing of it.
    monkeypatch.setenv("FANOUT_ALLOW_SOURCE", "10.0.0.0/8")
    assert "FANOUT_ALLOW_SOURCE" in complaint(capsys, "--config", str(relay_yaml))


def test_the_local_service_is_found_as_a_sender_finds_it(
    started: list[RelaySettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalService(1, "127.0.0.1:5353", ("local.svc.cluster.local",), 5, "headless-udp", 12_000, "/nonexistent")
    monkeypatch.setattr("fanout.local.state.find", lambda: local)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    said = settings(started, "-s", "headless-udp", "--listen", "udp://:1")
    assert said.ingresses[0].service == "headless-udp.local.svc.cluster.local"
    assert (said.nameserver, said.allow_loopback) == ("127.0.0.1:5353", True)
    for arguments in (
        ("-s", "other", "--listen", "udp://:1"),
        ("-s", "headless-udp", "--listen", "udp://:1", "--listen", "udp://:2", "--to", "other"),
    ):
        assert settings(started, *arguments).nameserver is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "172.30.0.1")
    assert settings(started, "-s", "headless-udp", "--listen", "udp://:1").nameserver is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "give at least one --listen INGRESS, or --config FILE"),
        ("-s a", "give at least one --listen INGRESS, or --config FILE"),
        ("--listen udp://:1", "--listen udp://:1 must have a Service: add --to SERVICE"),
        ("--listen udp://:1 --to b --listen udp://:2", "--listen udp://:2 must have a Service"),
        ("-s a --to b --listen udp://:1", "--to b must follow the --listen that it is for"),
        ("-s a --to-port 5 --listen udp://:1", "--to-port 5 must follow the --listen that it is for"),
        ("-s a --listen udp://:1 --to b --to c", "--to c is the second for --listen udp://:1"),
        ("-s a --listen udp://:1 --to-port 5 --to-port 6", "--to-port 6 is the second for --listen udp://:1"),
        ("-s a --listen udp://:1 --to-port 70000", "70000"),
        (
            "-s a --listen udp://:10-20 --to-port 65530",
            "ingress 'udp://:10-20': to_port (--to-port), the first of 11 ports in a row, must be a number from 1 to "
            "65,525; got 65530",
        ),
        ("-s a --listen nonsense", "ingress 'nonsense': the URL must be udp://"),
        ("-s a --listen udp://0.0.0.0:9-1", "the range 9-1 must ascend"),
        ("-s a --listen udp://0.0.0.0:1-65000", "the range must be at most 1,024 ports, a socket each; got 65,000"),
        (
            "-s a --listen mcast://10.0.0.1:5001@eth1",
            "group must be a multicast address (224.0.0.0/4, ff00::/8); got 10.0.0.1",
        ),
        ("-s a --listen udp://:1 --listen udp://:1", "ingress 'udp://:1' collides with 'udp://:1'"),
        (
            "-s a --listen udp://:1-1000 --listen udp://:2000-2030",
            "a relay must listen on at most 1,024 ports, a socket each; 'udp://:2000-2030' makes it 1,031: run another",
        ),
        ("-s a --listen udp://:1 --limit 0", "--limit"),
        ("-s a --listen udp://:1 --limit nan", "must be a finite number; got nan"),
        ("-s a --listen udp://:1 --allow-source 10.0.0.1/8", "no bits set beyond the mask; got '10.0.0.1/8'"),
        ("-s 10.0.0.300 --listen udp://:1", "fd00::1]:12000; got '10.0.0.300'"),
        ("--config nowhere.yaml", "cannot read nowhere.yaml: No such file or directory"),
        ("--config .", "cannot read .: Is a directory"),
        ("-s a --listen udp://:1 --nonsense", "No such option"),
        ("-s a --listen", "requires an argument"),
    ],
)
def test_bad_input_is_one_sentence(capsys: pytest.CaptureFixture[str], arguments: str, says: str) -> None:
    assert says in complaint(capsys, *arguments.split())


@pytest.mark.parametrize(
    ("variables", "arguments", "says"),
    [
        ({"FANOUT_LISTEN": "udp://:1"}, "-s a --to b", "FANOUT_LISTEN takes one --service"),
        ({"FANOUT_LISTEN": "udp://:1", "FANOUT_TO_PORT": "1 2"}, "-s a", "at most one --to-port"),
        ({"FANOUT_TO_PORT": "1 2"}, "-s a --listen udp://:1", "FANOUT_TO_PORT must be one port, for every --listen"),
        ({"FANOUT_LISTEN": "nonsense"}, "-s a", "ingress 'nonsense': the URL must be udp://"),
        ({"FANOUT_LISTEN": " "}, "-s a", "give at least one --listen INGRESS, or --config FILE"),
    ],
)
def test_a_bad_environment_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    arguments: str,
    says: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert says in complaint(capsys, *arguments.split())
