"""Plain mode stays plain: any UDP program at either end, byte for byte."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.cli import fanout, receiving
from tests.support.needs import require
from tests.support.ports import free_port
from tests.support.receivers import port_of, received
from tests.support.waiting import until

PAYLOAD = bytes(range(256)) * 4


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def listens(port: int) -> bool:
    """Whether a UDP socket is bound to the port (man 5 proc, /proc/net/udp)."""
    return any(line.split()[1].endswith(f":{port:04X}") for line in Path("/proc/net/udp").read_text().splitlines()[1:])


def test_plain_senders_to_our_receiver(tmp_path: Path) -> None:
    nc, socat = require("nc"), require("socat")
    with receiving(tmp_path) as (receiver, endpoint):
        port = port_of(endpoint)
        for count, command in enumerate(([nc, "-u", "127.0.0.1", str(port)], [socat, "-u", "-", f"UDP:{endpoint}"]), 1):
            with running(*command) as peer:
                assert peer.stdin is not None
                peer.stdin.write(PAYLOAD)
                peer.stdin.flush()
                events = received(receiver, count)
    assert [base64.b64decode(str(event["payload_base64"])) for event in events] == [PAYLOAD] * 2


def test_our_sender_to_plain_receivers() -> None:
    nc, socat = require("nc"), require("socat")
    one, other = free_port(), free_port()
    with (
        running(nc, "-u", "-l", "127.0.0.1", str(one)) as first,
        running(socat, "-u", f"UDP-RECV:{other}", "-") as second,
    ):
        for port in (one, other):
            until(lambda: listens(port), f"port {port}")  # noqa: B023 - it ends in this turn
        service = f"127.0.0.1:{one},127.0.0.1:{other}"
        assert fanout("send", "-s", service, "-m", "-", stdin=PAYLOAD).code == 0
        for peer in (first, second):
            assert peer.stdout is not None
            assert peer.stdout.read(len(PAYLOAD)) == PAYLOAD
