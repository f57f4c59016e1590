from __future__ import annotations

import shlex
import signal
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from fanout.cli.commands.resolve import _changes
from fanout.discovery.core.answer import Refusal
from fanout.discovery.core.endpoints import Known
from fanout.discovery.dns import LIFETIME
from fanout.model import Endpoint
from tests.support.cli import FANOUT, environment, invoke, running, strict_json
from tests.support.limits import dns_lifetime, setting, variables
from tests.support.waiting import PATIENCE


def test_literals_need_no_dns() -> None:
    run = invoke("resolve", "-s", "10.0.0.8:13000,10.0.0.7,[fd00::1]")
    assert run == (
        0,
        "10.0.0.8:13000,10.0.0.7,[fd00::1]: 3 endpoints\n"
        "  10.0.0.8:13000\n  10.0.0.7:12000\n  [fd00::1]:12000\n",
        "",
    )  # fmt: skip


def test_json() -> None:
    assert invoke("resolve", "-s", "10.0.0.7", "-o", "json").json == {
        "service": "10.0.0.7", "name": "", "dns_ttl": None, "endpoints": ["10.0.0.7:12000"], "refused": [],
        "lookups": [],
    }  # fmt: skip


@pytest.mark.parametrize(("number", "output"), [(signal.SIGINT, "text"), (signal.SIGTERM, "json")])
def test_watch_prints_joins_until_it_is_told_to_stop(tmp_path: Path, number: signal.Signals, output: str) -> None:
    with running(tmp_path, "resolve", "-s", "10.0.0.7,10.0.0.8", "--watch", "-o", output) as watch:
        watch.wait_until(lambda: watch.out.count("\n") == 2)
        run = watch.stop(number)
    assert (run.code, run.err) == (0, "")
    first, second = run.out.splitlines()
    if output == "text":
        assert first.endswith("+ 10.0.0.7:12000 joined")
        assert second.endswith("+ 10.0.0.8:12000 joined")
    else:
        change = strict_json(first)
        del change["time"]
        assert change == {"change": "joined", "endpoint": "10.0.0.7:12000"}


def test_watch_says_that_dns_is_silent(tmp_path: Path, closed_port: int) -> None:
    arguments = ("resolve", "-s", "headless-udp", "--watch", "--nameserver", f"127.0.0.1:{closed_port}")
    with running(tmp_path, *arguments, stdin=None, **variables(dns_lifetime(0.1))) as watch:
        watch.wait_until(lambda: "\n" in watch.out)
        run = watch.stop()
    assert (run.code, run.err) == (0, "")
    (line,) = run.out.splitlines()
    assert "! DNS failed: cannot resolve headless-udp A" in line


def test_the_changes_that_watch_shows() -> None:
    one, two = Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 1)
    refusal = Refusal("127.0.0.1", "loopback")
    steps = [
        (Known(), []),
        (Known((one,), 0.0, settled=True), [("joined", "10.0.0.1:1")]),
        (Known((one,), 0.0, "SERVFAIL", 1, settled=True), [("dns_failed", "SERVFAIL")]),
        (Known((one,), 0.0, "SERVFAIL", 2, settled=True), []),
        (
            Known((two,), 9.0, settled=True),
            [("joined", "10.0.0.2:1"), ("left", "10.0.0.1:1"), ("dns_recovered", "")],
        ),
        (
            Known((), 9.0, settled=True, refused=frozenset([refusal])),
            [
                ("left", "10.0.0.2:1"),
                ("refused", "loopback"),
                ("no_endpoints", "DNS returned only addresses that are refused: 127.0.0.1 (loopback)"),
            ],
        ),
        (Known((), 9.0, settled=True), []),
    ]
    for (before, _), (now, expected) in pairwise(steps):
        changes = [
            (change["change"], change.get("endpoint") or change.get("reason", "")) for change in _changes(before, now)
        ]
        assert changes == expected
    ((only),) = _changes(Known(), Known(settled=True))
    assert only["reason"] == "DNS knows no such Service, or no pod is ready"


def test_watch_ends_when_nobody_reads() -> None:
    command = f"{shlex.join([*FANOUT, 'resolve', '-s', '10.0.0.7', '--watch'])} >/dev/full"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, env=environment(), timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (1, "fanout: No space left on device\n")


def test_errors_are_json_too() -> None:
    run = invoke("resolve", "-s", "10.0.0.999", "-o", "json")
    assert run.json["exit_code"] == run.code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ([], 2, "--service"),
        (["-s", "a..b"], 2, "'a..b'"),
        (["-s", "pod", "--nameserver", "x"], 2, "'x'"),
        (["-s", "pod", "-o", "xml"], 2, "xml"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], code: int, part: str) -> None:
    assert part in invoke("resolve", *arguments).assert_one_sentence(code)


def test_no_answer_is_exit_code_1(closed_port: int) -> None:
    assert LIFETIME == 2
    with setting(dns_lifetime(0.1)):
        run = invoke("resolve", "-s", "headless-udp", "--nameserver", f"127.0.0.1:{closed_port}")
    assert "no answer within 0.1 s" in run.assert_one_sentence(1)
