"""What a test needs of the machine, and may lack: it is skipped there, with the reason in one line.

FANOUT_REQUIRE=containers,kubectl,nameserver,tools turns such skips into failures.
"""

from __future__ import annotations

import os
import shutil
import socket
from typing import NoReturn

import pytest

_PACKAGES = {
    "ffprobe": "ffmpeg",
    "gssdp-discover": "gupnp-tools",
    "ip": "iproute2",
    "knotd": "knot",
    "nc": "netcat-openbsd",
    "nft": "nftables",
    "nsenter": "util-linux",
    "prlimit": "util-linux",
    "stdbuf": "coreutils",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
"""Debian's package of a program, where it has another name."""

NEEDS = ("containers", "kubectl", "nameserver", "tools")


def required() -> set[str]:
    """Return what FANOUT_REQUIRE names."""
    return {name.strip() for name in os.environ.get("FANOUT_REQUIRE", "").split(",") if name.strip()}


def unavailable(needed: str, reason: str) -> NoReturn:
    """Skip the test, which needs one of `NEEDS`; fail it where FANOUT_REQUIRE has that."""
    assert needed in NEEDS
    if needed in required():
        pytest.fail(f"{needed} required, and {reason}", pytrace=False)
    pytest.skip(f"{needed}: {reason}")


def program(name: str) -> str | None:
    """Return where a program is: those of administrators are not on everybody's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def is_missing(name: str) -> str:
    """Say that a program is missing, and which package has it."""
    return f"{name} is missing (Debian, Ubuntu: apt install {_PACKAGES.get(name, name)})"


def require(*names: str, needed: str = "tools") -> str:
    """Return where the first of these programs is; skip the test where one of them is missing."""
    for name in names:
        if program(name) is None:
            unavailable(needed, is_missing(name))
    return program(names[0]) or names[0]


def has_address(host: str) -> bool:
    """Whether this machine has that address: loopback has ::1 only where IPv6 is switched on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as tried:
            tried.bind((host, 0))
    except OSError:
        return False
    return True


def require_address(host: str) -> None:
    """Skip the test where this machine has not that address."""
    if not has_address(host):
        unavailable("tools", f"this machine has no address {host}")
