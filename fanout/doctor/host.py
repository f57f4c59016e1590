"""Gathers the facts about this host: its receive buffers, their drops, and GSO."""

from __future__ import annotations

import socket
import sys

from fanout.doctor import kernel
from fanout.doctor.core.facts import HostFacts
from fanout.net import bind, gso
from fanout.net.bind import RECEIVE_BUFFER

_SIZES = (200, 1200)


def gather() -> HostFacts:
    """Gather the facts about this host; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        taken = trial.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        has_gso = gso.cut(trial, 0)
    room = {size: taken // cost for size in _SIZES if (cost := _cost(size))}
    return HostFacts(
        asked=RECEIVE_BUFFER,
        granted=taken // 2 if sys.platform == "linux" else taken,  # man 7 socket: the kernel doubles it
        sysctl=kernel.sysctl("net/core/rmem_max"),
        room=room,
        has_gso=has_gso,
    )


def overflows() -> int | None:
    """Return how many datagrams full receive buffers have cost so far (RcvbufErrors); None where it is unknown."""
    return kernel.counters().get("RcvbufErrors")


def _cost(size: int) -> int:
    """Return the bytes of receive buffer that a datagram over loopback takes; 0 where it is unknown."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        try:
            receiver.bind(("127.0.0.1", 0))
            sender.sendto(bytes(size), receiver.getsockname())
            return bind.held(receiver)
        except OSError:
            return 0
