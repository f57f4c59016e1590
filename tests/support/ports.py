"""Ports on which nothing listens, below those that the system lends to others meanwhile."""

from __future__ import annotations

import secrets
import socket

_FIRST, _LAST = 20_000, 32_000
_lent: set[int] = set()


def bind_both(host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """Return a UDP and a TCP socket on one port, which this process has not lent before."""
    for _ in range(1000):
        # Not of `random`, which hypothesis makes the same in two processes.
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            udp.bind((host, port))
            tcp.bind((host, port))
            if port not in _lent:
                _lent.add(port)
                return udp, tcp
        except OSError:
            pass
        udp.close()
        tcp.close()
    raise AssertionError("no free port")


def free_port() -> int:
    """Return a port of which nobody has the UDP nor the TCP one, on any address."""
    udp, tcp = bind_both("")
    with udp, tcp:
        port: int = udp.getsockname()[1]
        return port
