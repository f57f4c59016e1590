"""Runs of segments (GSO) between two hosts: what arrives is what was sent, message by message, at any program."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.namespace import Namespace, cabled_hosts
from tests.support.needs import unavailable

PORT = 12000
HERE, THERE = "10.77.0.1", "10.77.0.2"
_SIZES = [
    *[1400] * 100,
    *[200] * 65,  # one more than a run holds
    7,  # a shorter one ends a run
    *[1472] * 3,  # what the path's MTU carries
    *[1473] * 3,  # and what it does not: fragments
    *[1] * 70,
    *range(2, 60),
    *[4000] * 4,
    *[600, 300] * 20,
]
PAYLOADS = [random.Random(number).randbytes(size) for number, size in enumerate(_SIZES)]

_SENDER = """
import sys, fanout
from tests.system.test_segments import PAYLOADS
with fanout.Sender("10.77.0.2,10.77.0.2:12001") as sender:
    report = sender.send_many(PAYLOADS, rate=5000, burst=64, settle=0.01)
print(len(report.dropped), [outcome.sent for outcome in report.outcomes])
"""
_RECEIVER = """
import json, sys, fanout
with fanout.Receiver() as receiver:
    print("ready", flush=True)
    got = []
    for message in receiver:
        got.append(message.payload.hex())
        if len(got) == int(sys.argv[1]):
            break
print(json.dumps(got))
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    """Two hosts with a cable between them."""
    with cabled_hosts(HERE, THERE) as both:
        yield both


def send(here: Namespace) -> None:
    """Send the payloads, and see that they left as runs."""
    before = packets(here)
    sent = subprocess.run([*here.command, sys.executable, "-c", _SENDER], capture_output=True, text=True, check=True)
    assert sent.stdout.split()[0] == "0"
    assert packets(here) - before < len(PAYLOADS) * 2, "each packet a message: no segments"


def packets(namespace: Namespace) -> int:
    shown = subprocess.run(
        [*namespace.command, "ip", "-j", "-s", "link", "show", "eth0"], capture_output=True, check=True
    )
    count: int = json.loads(shown.stdout)[0]["stats64"]["tx"]["packets"]
    return count


def wait_for_listener(process: subprocess.Popen[bytes], namespace: Namespace) -> None:
    deadline = time.monotonic() + 10
    while f":{PORT:04X}" not in Path(f"/proc/{namespace.pid}/net/udp").read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_size(got: Path) -> None:
    deadline = time.monotonic() + 10
    while not got.exists() or got.stat().st_size < sum(_SIZES):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def listening(there: Namespace, command: list[str], **streams: object) -> Iterator[subprocess.Popen[bytes]]:
    if shutil.which(command[0]) is None:
        unavailable("tools", f"{command[0]} is missing")
    process = subprocess.Popen([*there.command, *command], **streams)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_mixed_sizes_arrive_whole_at_a_fanout_receiver(hosts: tuple[Namespace, Namespace]) -> None:
    here, there = hosts
    with listening(there, [sys.executable, "-c", _RECEIVER, str(len(PAYLOADS))], stdout=subprocess.PIPE) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"ready\n"
        send(here)
        out, _ = receiver.communicate(timeout=20)
    assert [bytes.fromhex(text) for text in json.loads(out)] == PAYLOADS


def test_every_byte_arrives_at_nc(hosts: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, there = hosts
    got = tmp_path / "got"
    with (
        got.open("wb") as stdout,
        listening(there, ["nc", "-u", "-l", str(PORT)], stdin=subprocess.DEVNULL, stdout=stdout) as nc,
    ):
        wait_for_listener(nc, there)
        send(here)
        wait_for_size(got)
    assert got.read_bytes() == b"".join(PAYLOADS)


def test_mixed_sizes_arrive_whole_at_socat(hosts: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, there = hosts
    got, dump = tmp_path / "got", tmp_path / "dump"
    command = ["socat", "-u", "-x", "-b", "65536", f"UDP-RECV:{PORT},rcvbuf=4194304", f"CREATE:{got}"]
    with dump.open("wb") as stderr, listening(there, command, stderr=stderr) as socat:
        wait_for_listener(socat, there)
        send(here)
        wait_for_size(got)
    assert got.read_bytes() == b"".join(PAYLOADS)
    assert [int(size) for size in re.findall(r"length=(\d+)", dump.read_text())] == _SIZES
