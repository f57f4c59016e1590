from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli import fanout, running, strict_json


def test_literals_need_no_dns() -> None:
    run = fanout("resolve", "-s", "10.0.0.8:13000,10.0.0.7,[fd00::1]")
    assert run == (
        0,
        "10.0.0.8:13000,10.0.0.7,[fd00::1]: 3 endpoints\n"
        "  10.0.0.8:13000\n  10.0.0.7:12000\n  [fd00::1]:12000\n",
        "",
    )  # fmt: skip


def test_json() -> None:
    assert fanout("resolve", "-s", "10.0.0.7", "-o", "json").json == {
        "service": "10.0.0.7", "name": "", "dns_ttl": None, "endpoints": ["10.0.0.7:12000"], "refused": [],
        "lookups": [],
    }  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("output", ["text", "json"])
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
    assert part in fanout("resolve", *arguments).assert_one_sentence(code)


def test_no_answer_is_exit_code_1(closed_port: int) -> None:
    run = fanout("resolve", "-s", "headless-udp", "--nameserver", f"127.0.0.1:{closed_port}")
    assert "no answer within 2 s" in run.assert_one_sentence(1)
