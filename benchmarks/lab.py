"""The laboratory: a sender and up to 200 pods as network namespaces on one bridge, gone when the process is gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

PORT = 12000
GROUP = "239.77.0.1"
MOST_PODS = 200
SENDER = "10.77.255.1"
_INSIDE = "FANOUT_BENCH_INSIDE"
_NAMESPACES = "/run/netns"
_BRIDGE_FIREWALL = Path("/proc/sys/net/bridge")
"""Whether bridges show each packet to iptables: off, so that a run does not depend on what the machine has loaded."""


def is_inside() -> bool:
    """Whether this process has namespaces of its own to build in."""
    return os.environ.get(_INSIDE) == "1"


def _unshare() -> list[str]:
    # Who is not root may be so in a user namespace, where the system allows that.
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def why_no_lab() -> str | None:
    """Return in one line why there can be no laboratory; None where there can be."""
    for program, package in (("unshare", "util-linux"), ("setpriv", "util-linux"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            return f"the program {program} is missing (Debian, Ubuntu: apt install {package})"
    script = "mount -t tmpfs tmpfs /run && ip link add trial type bridge && ip netns add trial"
    tried = subprocess.run([*_unshare(), "sh", "-c", script], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces need root ({tried.stderr.strip().splitlines()[-1]})"
    return None


def run_inside(arguments: Sequence[str]) -> int:
    """Run `python -m benchmarks` with these arguments in new namespaces; return its exit code.

    Its processes end with it and it ends with this process, however that ends (kill -9, too): they share a process
    namespace, whose first process, a shell that reaps what the others leave, asks to be killed when its parent ends.
    The networks are gone with the last process in them.
    """
    process = subprocess.Popen(
        [
            *("setpriv", "--pdeathsig", "KILL", "--", *_unshare()),
            *("sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-m", "benchmarks", *arguments),
        ],
        env={**os.environ, _INSIDE: "1"},
    )

    def end(number: int, frame: FrameType | None) -> None:
        process.kill()
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 130
    finally:
        process.kill()
        process.wait()


class Lab:
    """Pods to send to; `grow` adds some. Where it is `loopback`, they are but addresses of the loopback interface."""

    def __init__(self, *, loopback: bool) -> None:
        self.loopback = loopback
        self._pods = 0
        if loopback:
            return
        for command in ("mount -t tmpfs tmpfs /run", f"mkdir {_NAMESPACES}"):
            subprocess.run(command.split(), check=True)
        _ip(
            [
                "link set lo up",
                # Without snooping the bridge floods a group to every port: each port is a member.
                "link add bridge type bridge mcast_snooping 0 forward_delay 0",
                "link set bridge up",
                *_host("sender"),
            ]
        )
        for switch in _BRIDGE_FIREWALL.glob("bridge-nf-call-*"):
            switch.write_text("0")
        _ip([*_addresses(SENDER), "route add 224.0.0.0/4 dev eth0"], "sender")

    @property
    def name(self) -> str:
        """What the pods are."""
        return "loopback addresses" if self.loopback else "network namespaces on one bridge"

    def grow(self, pods: int) -> None:
        """Have at least N pods."""
        if not self.loopback:
            _ip([line for number in range(self._pods, pods) for line in _host(f"pod{number}")])
            for number in range(self._pods, pods):
                _ip(_addresses(self.address(number)), f"pod{number}")
        self._pods = max(self._pods, pods)

    def add(self, name: str, address: str) -> list[str]:
        """Add a host unless it exists; return the prefix of a command that runs there."""
        if self.loopback:
            return []
        if not Path(_NAMESPACES, name).exists():
            _ip(_host(name))
            _ip(_addresses(address), name)
        return ["nsenter", f"--net={_NAMESPACES}/{name}", "--"]

    def address(self, pod: int) -> str:
        """Return the IP address of a pod."""
        return f"127.0.{10 + pod // 100}.{1 + pod % 100}" if self.loopback else f"10.77.{pod // 100}.{1 + pod % 100}"

    def addresses(self, pods: int) -> list[str]:
        """Return the IP addresses of the first pods."""
        return [self.address(pod) for pod in range(pods)]

    def literal(self, pods: int) -> str:
        """Return the first pods as a literal list for fanout; one alone takes a comma, too."""
        return ",".join(f"{address}:{PORT}" for address in self.addresses(pods))

    def namespace(self, pod: int) -> str:
        """Return the file of a pod's network namespace, '-' for the present one."""
        return "-" if self.loopback else f"{_NAMESPACES}/pod{pod}"

    def in_pod(self, pod: int) -> list[str]:
        """Return what stands before a command to run it in a pod."""
        return [] if self.loopback else ["nsenter", f"--net={_NAMESPACES}/pod{pod}", "--"]

    def cut(self, pod: int, *, off: bool) -> None:
        """Take a pod off the network, so that nobody answers for its address; or put it back."""
        _ip([f"link set pod{pod} {'down' if off else 'up'}"])
        # The neighbours' tables forget it at once, as they would after some seconds.
        _ip([f"neighbour flush to {self.address(pod)}"], "sender")

    @property
    def in_sender(self) -> list[str]:
        """What stands before a command to run it at the sender."""
        return [] if self.loopback else ["nsenter", f"--net={_NAMESPACES}/sender", "--"]


def _host(name: str) -> list[str]:
    return [
        f"netns add {name}",
        f"link add {name} type veth peer name eth0 netns {name}",
        # Two hundred hosts that look for IPv6 neighbours would be heard in the figures.
        f"link set {name} master bridge addrgenmode none up",
    ]


def _addresses(address: str) -> list[str]:
    return [
        "link set lo up",
        "link set eth0 addrgenmode none up",
        f"address add {address}/16 dev eth0",
    ]


def _ip(lines: list[str], namespace: str | None = None) -> None:
    where = [] if namespace is None else ["-n", namespace]
    subprocess.run(["ip", *where, "-batch", "-"], input="\n".join(lines), text=True, check=True)
