"""The demo, played with the real commands on its own Service."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from fanout.daemon.common.events import MESSAGE_RECEIVED
from fanout.errors import SocketUnavailable
from fanout.local import logs
from fanout.local.directory import has_room
from fanout.local.launch import interrupts_later, python_command
from fanout.local.pod_process import free_address
from fanout.local.state import LocalServiceError
from fanout.model import DEFAULT_PORT

_SERVICE = "headless-udp"
_FIRST, _SECOND = "cache invalidated", "hello to all five"
_LOG_TIMEOUT = 30.0
"""Seconds for a message to show in the logs: it takes milliseconds, unless the machine stands still meanwhile."""


def play() -> None:
    """Play the demo, command by command; raise `LocalServiceError` unless all five pods logged the last message."""
    port = _usable_port()
    port_options = [] if port == DEFAULT_PORT else ["--port", str(port)]
    started = time.monotonic()
    with _stage() as stage:
        _say("A state directory of its own, beside that of a Service that may be running:")
        click.secho(f"$ export FANOUT_LOCAL_DIR={shlex.quote(stage.directory)}", bold=True)
        _say("Two receivers, and a nameserver that answers for them as a cluster's does:")
        stage.run("local", "up", "--replicas", "2", *port_options, "--detach")
        _say("A message to every pod that DNS names:")
        stage.run("send", "-s", _SERVICE, *port_options, "-m", _FIRST)
        stage.expect(_FIRST, pods=2)
        stage.run("local", "logs")
        _say("Scale up: the next message reaches the new pods too.")
        stage.run("local", "scale", "5")
        stage.run("send", "-s", _SERVICE, *port_options, "-m", _SECOND)
        stage.expect(_SECOND, pods=5)
        stage.run("local", "logs", "--tail", "1")
        stage.run("local", "down")
    click.secho(f"\nAll 5 receivers logged {_SECOND!r} ({time.monotonic() - started:.0f} s).", fg="green")


class _Stage:
    def __init__(self, directory: str) -> None:
        self.directory = directory
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FANOUT_")}
        # In a pod, `fanout send` would ask the cluster's DNS.
        inherited.pop("KUBERNETES_SERVICE_HOST", None)
        # FANOUT_PID: however the demo ends, its Service ends with it.
        self._environment = {**inherited, "FANOUT_LOCAL_DIR": directory, "FANOUT_PID": str(os.getpid())}
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, *arguments: str) -> None:
        """Show a command, run it, and raise `LocalServiceError` where it fails."""
        command = shlex.join(["fanout", *arguments])
        click.secho(f"$ {command}", bold=True)
        with interrupts_later():
            # Ctrl-C is for the demo, which ends the command: one that starts up just then would complain of it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._process = subprocess.Popen(python_command("fanout", *arguments), env=self._environment)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        code = self._process.wait()
        if code:
            raise LocalServiceError(f"the demo ends here: `{command}` ended with exit code {code}")

    def expect(self, payload: str, *, pods: int) -> None:
        """Wait until N pods have logged the message; raise `LocalServiceError` where one does not."""
        deadline = time.monotonic() + _LOG_TIMEOUT
        while len(having := self._pods_that_logged(payload)) < pods:
            if time.monotonic() > deadline:
                missing = ", ".join(name for name in logs.names(self.directory) if name not in having)
                raise LocalServiceError(
                    f"the demo ends here: {len(having)} of {pods} receivers logged {payload!r} "
                    f"within {_LOG_TIMEOUT:.0f} s, not {missing or 'the others'}"
                )
            time.sleep(0.02)

    def clear(self) -> None:
        """End what is running, and leave nothing behind."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        subprocess.run(
            python_command("fanout", "local", "down"), env=self._environment, capture_output=True, check=False
        )
        shutil.rmtree(self.directory, ignore_errors=True)

    def _pods_that_logged(self, payload: str) -> set[str]:
        logged = (MESSAGE_RECEIVED, payload)
        events = ((line.pod, logs.parse(line.text) or {}) for line in logs.read(self.directory))
        return {pod for pod, values in events if (values.get("event"), values.get("payload")) == logged}


@contextmanager
def _stage() -> Iterator[_Stage]:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    stage = _Stage(_make_directory())
    try:
        yield stage
    finally:
        # From here on, an impatient second Ctrl-C must not leave anything behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        stage.clear()


def _make_directory() -> str:
    """Make a state directory, in /tmp where TMPDIR is too long for the Unix socket in it."""
    directory = tempfile.mkdtemp(prefix="fanout-demo-")
    if has_room(directory):
        return directory
    shutil.rmtree(directory)
    return tempfile.mkdtemp(prefix="fanout-demo-", dir="/tmp")


def _usable_port() -> int:
    """Return the usual port, or a free one where something listens on that on all addresses."""
    try:
        free_address(DEFAULT_PORT, ())
    except SocketUnavailable:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])
    return DEFAULT_PORT


def _say(sentence: str) -> None:
    click.secho(f"\n# {sentence}", dim=True)
