"""`fanout doctor` on this host alone: what it is asked, its exit codes, and how it looks on a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fanout.cli.main import main
from fanout.doctor import host
from fanout.doctor.core.facts import HostFacts
from tests.support.cli import environment, invoke, running, strict_json
from tests.support.waiting import PATIENCE

_UNTIL_SHOWN = """
from fanout.__main__ import main
from fanout.cli.commands import doctor
from fanout.doctor import capture
tell = doctor._Progress.tell
class Clock:
    now = 0.0
    def monotonic(self):
        Clock.now += 0.25
        return Clock.now
def tell_and_end(progress, seconds, heard):
    tell(progress, seconds, heard)
    if progress._is_shown:
        Clock.now = 7200.0
doctor._Progress.tell = tell_and_end
capture.time = Clock()
main()
"""
"""A `fanout doctor` for which the waiting is over once it has shown how far it is."""


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (
            ["--listen", "mcast://10.0.0.1:5001@eth0"],
            2,
            "group must be a multicast address (224.0.0.0/4, ff00::/8); got 10.0.0.1",
        ),
        (["--listen", "nonsense"], 2, "'nonsense'"),
        (["--listen", "udp://0.0.0.0:7-1"], 2, "the range 7-1 must ascend: write 1-7"),
        (["-s", "a..b"], 2, "'a..b'"),
        (["-s", "10.0.0.7", "-p", "0"], 2, "0"),
        (["-s", "pod", "--nameserver", "x"], 2, "'x'"),
        (["--wait", "0"], 2, "--wait"),
        (["--wait", "nan"], 2, "nan"),
        (["-o", "xml"], 2, "xml"),
        (["surplus"], 2, "surplus"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], code: int, part: str) -> None:
    run = invoke("doctor", *arguments)
    assert part in run.assert_one_sentence(code)
    assert run.out == ""


def test_bad_input_is_json_too() -> None:
    run = invoke("doctor", "--listen", "nonsense", "-o", "json")
    assert run.json["exit_code"] == run.code == 2


def test_without_a_service_or_an_ingress_the_host_alone_is_checked() -> None:
    run = invoke("doctor", "-o", "json")
    assert run.err == ""
    assert [check["check"] for check in run.json["checks"]] == ["receive buffer", "gso", "receive drops"]
    assert (run.code, run.json["status"]) in ((0, "ok"), (1, "warning"))
    text = invoke("doctor").out
    assert re.search(r"^(ok|warning) +receive buffer: .* bytes", text, re.MULTILINE)


WELL = HostFacts(asked=4_194_304, granted=4_194_304, sysctl=4_194_304, room={}, has_gso=True)


@pytest.mark.parametrize(
    ("facts", "drops", "code", "status"),
    [
        (WELL, (17, 17), 0, "ok"),
        (replace(WELL, has_gso=False), (0, 0), 0, "ok"),
        (replace(WELL, granted=212_992), (0, 0), 1, "warning"),
        (WELL, (17, 18), 1, "warning"),
    ],
)
def test_exit_code_0_is_only_for_a_host_where_all_is_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], facts: HostFacts, drops: tuple[int, int],
    code: int, status: str,
) -> None:  # fmt: skip
    counted = iter(drops)
    monkeypatch.setattr(host, "gather", lambda: facts)
    monkeypatch.setattr(host, "overflows", lambda: next(counted))
    assert main(["doctor", "-o", "json"]) == code
    assert strict_json(capsys.readouterr().out)["status"] == status


def test_an_interrupt_ends_the_waiting(tmp_path: Path, closed_port: int) -> None:
    arguments = ("doctor", "--listen", f"udp://127.0.0.1:{closed_port}", "--wait", "3600")
    with running(tmp_path, *arguments) as doctor:
        doctor.wait_until(lambda: "gso" in doctor.out)
        assert doctor.stop(signal.SIGINT).code == 130


def test_on_a_terminal_it_is_coloured_and_shows_how_far_it_is(closed_port: int) -> None:
    terminal, its_other_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _UNTIL_SHOWN, "doctor", "--listen", f"udp://127.0.0.1:{closed_port}", "--wait", "3600"],
        stdout=its_other_end, stderr=its_other_end, env=environment(TERM="xterm"),
    )  # fmt: skip
    os.close(its_other_end)
    shown = b""
    with contextlib.suppress(OSError):  # a terminal ends with an error
        while block := os.read(terminal, 65_536):
            shown += block
    os.close(terminal)
    assert process.wait(timeout=PATIENCE) == 1
    assert re.search(rb"listening: \d+ of 3600 s, heard at 0 of 1\r\x1b\[K", shown)
    assert b"\x1b[31m\x1b[1mproblem" in shown
    assert b"let it pass?\r\n" in shown
