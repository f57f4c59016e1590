"""A network and a resolv.conf of the test's own: port 53, firewall rules and search lists as in a pod."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from tests.support.cli import FANOUT, Run, environment
from tests.support.console import Console, console
from tests.support.limits import PATIENT, SOON, Limits
from tests.support.needs import is_missing, program, unavailable
from tests.support.waiting import PATIENCE

T = TypeVar("T")
RESOLV_CONF = Path("/etc/resolv.conf")
_IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


def _unshare() -> list[str]:
    # Who is not root may be so in a user namespace, where the system allows that.
    return ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--mount", "--net"]


@functools.cache
def why_no_namespace() -> str | None:
    """Say why there can be no namespace; None where there can be."""
    for name in ("unshare", "nsenter", "ip"):
        if program(name) is None:
            return is_missing(name)
    if not RESOLV_CONF.exists():
        return f"there is no {RESOLV_CONF} in whose place one could be mounted"
    tried = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    return f"namespaces need root or user namespaces ({tried.stderr.strip()})" if tried.returncode else None


class Namespace:
    """Lives as long as a process in it: a network with nothing but loopback, and a resolv.conf."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="fanout-namespace-"))
            stack.callback(shutil.rmtree, folder)
            self._resolv_conf = folder / "resolv.conf"
            self._resolv_conf.touch()
            script = f'"$1" link set lo up && mount --bind "$2" {RESOLV_CONF} && echo ready && exec cat'
            self._process = subprocess.Popen(
                [*_unshare(), "sh", "-c", script, "sh", program("ip") or "ip", str(self._resolv_conf)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.callback(self._end)
            assert self._process.stdout is not None
            assert self._process.stdout.readline() == b"ready\n"
            self._stack = stack.pop_all()
        self._console: Console | None = None

    @property
    def pid(self) -> int:
        """A process inside."""
        return self._process.pid

    @property
    def command(self) -> list[str]:
        """What stands before a command to run it inside; the process id stays that of the command."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self._process.pid}", *user, "--mount", "--net", "--"]

    def configure(self, *lines: str) -> None:
        """Write resolv.conf."""
        self._resolv_conf.write_text("".join(f"{line}\n" for line in lines))

    def run(self, *command: str) -> None:
        subprocess.run([*self.command, *command], check=True)

    def fanout(self, *arguments: str) -> Run:
        """Run `fanout` inside, as in a pod."""
        done = subprocess.run(
            [*self.command, *FANOUT, *arguments],
            capture_output=True,
            env=environment(**_IN_A_POD),
            timeout=PATIENCE,
            check=False,
        )
        return Run(done.returncode, done.stdout.decode(), done.stderr.decode())

    def invoke(self, *arguments: str, limits: Limits | None = None) -> Run:
        """Do so in a process that stays, which is started with the first run and has these limits for this one."""
        if self._console is None:
            self._console = self._stack.enter_context(console(*self.command))
        within = ("tests.support.limits:setting", [{**PATIENT, **SOON, **(limits or {})}])
        return self._console.fanout(*arguments, within=within, **_IN_A_POD)

    def open_socket(self, family: socket.AddressFamily, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
        """Return a socket of this network, to be used from here: that needs root."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in a thread that is in this network, as are the sockets that it makes: that needs root."""

        def call() -> T:
            with Path(f"/proc/{self.pid}/ns/net").open("rb") as network:
                if _libc.setns(network.fileno(), _CLONE_NEWNET):
                    number = ctypes.get_errno()
                    if number == errno.EPERM:
                        unavailable("tools", "sockets in another network need root (setns)")
                    raise OSError(number, os.strerror(number), "setns")
            return function()

        # The thread ends at once: nothing else is to happen in that network.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(call).result()

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # at which it ends
        self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def cabled_hosts(here: str, there: str) -> Iterator[tuple[Namespace, Namespace]]:
    """Yield two hosts with a cable between them, and these addresses."""
    why = why_no_namespace()
    if why is not None:
        unavailable("tools", why)
    with Namespace() as first, Namespace() as second:
        made = subprocess.run(
            ["ip", "link", "add", "eth0", "netns", str(first.pid), "type", "veth",
             "peer", "name", "eth0", "netns", str(second.pid)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            why = made.stderr.strip() if os.geteuid() == 0 else "they need root"
            unavailable("tools", f"no cables between namespaces: {why}")
        for namespace, address in ((first, here), (second, there)):
            namespace.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
            namespace.run("ip", "link", "set", "eth0", "up")
        yield first, second
