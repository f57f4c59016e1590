"""A relay's program while signals come: it relays in one thread, and waits for them in another."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from tests.support.limits import UNHURRIED, variables
from tests.support.ports import free_port
from tests.support.relay_processes import name, pause, ready, relaying, resume, send

_RESTLESS = variables({**UNHURRIED, "fanout.daemon.relay.runner:CHECK_INTERVAL": 0.001})
"""A relay is checked all the time, and forwards what it holds at its end, however long that takes."""


def test_it_goes_on_after_it_was_stopped_and_forwards_what_the_kernel_holds(tmp_path: Path, pod: socket.socket) -> None:
    """Stopped by the shell's job control, or with its whole machine: no signal has told it to end."""
    port = free_port()
    listen = ("--listen", f"udp://127.0.0.1:{port}")
    with relaying(tmp_path, "-s", name(pod), *listen, "--drain", "0.1", **_RESTLESS) as relay:
        ready(relay)
        for number in range(50):
            pause(relay)
            resume(relay)
            send(port, b"after %d" % number)
            assert pod.recv(100) == b"after %d" % number
        assert relay.events("relay_draining") == []
        pause(relay)
        send(port, *(b"%d" % number for number in range(150)))
        relay.process.send_signal(signal.SIGTERM)
        resume(relay)
        assert relay.end().code == 0
        assert [event["event"] for event in relay.events()][-2:] == ["relay_draining", "relay_stopped"]
    assert [int(pod.recv(100)) for _ in range(150)] == list(range(150))
