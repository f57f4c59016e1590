"""Runs of segments (GSO) between two hosts: what arrives is what was sent, message by message, at any program."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

from tests.support.mixed_payloads import PARTS, PAYLOADS, SIZES
from tests.support.namespace import Namespace, cabled_hosts
from tests.support.needs import is_missing, program, unavailable
from tests.support.tree import ROOT
from tests.support.waiting import until

HERE, THERE = "10.77.0.1", "10.77.0.2"
OURS, NC, SOCAT = 12000, 12001, 12002

_SENDER = """
import sys, fanout
from tests.support.mixed_payloads import PARTS
with fanout.Sender(sys.argv[1]) as sender:
    for part in PARTS:
        print(len(sender.send_many(part).dropped), flush=True)
        sys.stdin.readline()
"""
_RECEIVER = """
import fanout
with fanout.Receiver() as receiver:
    print("ready", flush=True)
    for message in receiver:
        print(message.payload.hex(), flush=True)
"""


class Programs:
    """Programs on one host, whose output goes to files."""

    def __init__(self, host: Namespace, folder: Path, stack: contextlib.ExitStack) -> None:
        self._host, self._folder, self._stack = host, folder, stack

    def start(self, name: str, *command: str) -> Path:
        out, err = self._folder / f"{name}.out", self._folder / f"{name}.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [*self._host.command, *command], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return out

    def wait_for_port(self, port: int) -> None:
        bound = Path(f"/proc/{self._host.pid}/net/udp")
        until(lambda: f":{port:04X} " in bound.read_text(), f"nobody has port {port}")


def packets(namespace: Namespace) -> int:
    shown = subprocess.run(
        [*namespace.command, "ip", "-j", "-s", "link", "show", "eth0"], capture_output=True, check=True
    )
    count: int = json.loads(shown.stdout)[0]["stats64"]["tx"]["packets"]
    return count


def send(here: Namespace, ports: list[int], arrived: list[Path]) -> None:
    """Send part by part: each of the files has a part before the next one is sent, a line or the bytes of it."""
    service = ",".join(f"{THERE}:{port}" for port in ports)
    lines = size = 0
    with subprocess.Popen(
        [*here.command, sys.executable, "-c", _SENDER, service],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as sender:  # fmt: skip
        assert sender.stdin is not None
        assert sender.stdout is not None
        for part in PARTS:
            assert sender.stdout.readline() == "0\n", "dropped"
            lines, size = lines + len(part), size + sum(map(len, part))
            until(lambda: arrived[0].read_bytes().count(b"\n") == 1 + lines)  # noqa: B023 - it ends in this turn
            for plain in arrived[1:]:
                until(lambda: plain.stat().st_size == size)  # noqa: B023
            sender.stdin.write("\n")
            sender.stdin.flush()
    assert sender.returncode == 0


def sizes_in(dump: Path) -> list[int]:
    return [int(size) for size in re.findall(r"length=(\d+)", dump.read_text())]


def test_mixed_sizes_arrive_whole_at_any_program(tmp_path: Path) -> None:
    with cabled_hosts(HERE, THERE) as (here, there), contextlib.ExitStack() as stack:
        programs = Programs(there, tmp_path, stack)
        ours = programs.start("ours", sys.executable, "-c", _RECEIVER)
        plain: dict[int, Path] = {}
        if program("nc"):
            plain[NC] = programs.start("nc", "nc", "-u", "-l", str(NC))
        if program("socat"):
            listening = f"UDP-RECV:{SOCAT}"
            plain[SOCAT] = programs.start("socat", "socat", "-u", "-x", "-b", "65536", listening, "STDOUT")
        until(lambda: ours.read_bytes() == b"ready\n")
        for port in plain:
            programs.wait_for_port(port)
        before = packets(here)
        send(here, [OURS, *plain], [ours, *plain.values()])
        assert packets(here) - before < len(PAYLOADS) * (1 + len(plain)), "each packet a message: no segments"
        if SOCAT in plain:
            until(lambda: len(sizes_in(tmp_path / "socat.err")) == len(SIZES))
    assert [bytes.fromhex(line) for line in ours.read_text().splitlines()[1:]] == PAYLOADS
    for out in plain.values():
        assert out.read_bytes() == b"".join(PAYLOADS)
    if SOCAT in plain:
        assert sizes_in(tmp_path / "socat.err") == SIZES
    for name, port in (("nc", NC), ("socat", SOCAT)):
        if port not in plain:
            unavailable("tools", is_missing(name))
