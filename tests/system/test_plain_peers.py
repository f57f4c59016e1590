"""Plain mode stays plain: any UDP program at either end, byte for byte."""

from __future__ import annotations

import base64
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.test_cli_receive import port_of, received
from tests.support.cli import fanout, receiving
from tests.support.needs import unavailable
from tests.support.ports import free_port

PAYLOAD = bytes(range(256)) * 4


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        package = "netcat-openbsd" if name == "nc" else name
        unavailable("tools", f"{name} is missing (Debian, Ubuntu: apt install {package})")
    return path


def listens(port: int) -> bool:
    """Whether a UDP socket is bound to the port (man 5 proc, /proc/net/udp)."""
    return any(line.split()[1].endswith(f":{port:04X}") for line in Path("/proc/net/udp").read_text().splitlines()[1:])


@pytest.mark.parametrize(
    "command", [["nc", "-u", "-w", "1", "127.0.0.1", "{port}"], ["socat", "-u", "-", "UDP:127.0.0.1:{port}"]]
)
def test_a_plain_sender_to_our_receiver(command: list[str], tmp_path: Path) -> None:
    with receiving(tmp_path) as (receiver, endpoint):
        filled = [program(command[0]), *(word.format(port=port_of(endpoint)) for word in command[1:])]
        subprocess.run(filled, input=PAYLOAD, check=True, timeout=10)
        (event,) = received(receiver, 1)
    assert base64.b64decode(str(event["payload_base64"])) == PAYLOAD


@pytest.mark.parametrize(
    "command", [["nc", "-u", "-l", "127.0.0.1", "{port}"], ["socat", "-u", "UDP-RECV:{port}", "-"]]
)
def test_our_sender_to_a_plain_receiver(command: list[str]) -> None:
    port = free_port()
    filled = [program(command[0]), *(word.format(port=port) for word in command[1:])]
    peer = subprocess.Popen(filled, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while not listens(port):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert fanout("send", "-s", f"127.0.0.1:{port}", "-m", "-", stdin=PAYLOAD).code == 0
        assert peer.stdout is not None
        got = b""
        while len(got) < len(PAYLOAD):
            block = peer.stdout.read1(4096)  # type: ignore[attr-defined]
            assert block
            got += block
        assert got == PAYLOAD
    finally:
        peer.kill()
        peer.communicate()
