"""Runs of datagrams that the kernel delivers in one buffer (UDP_GRO).

With UDP_GRO (man 7 udp; Linux 5.0) one `recvmsg` returns up to 64 KiB: datagrams of one source and of equal size, the
last of which may be shorter, and that size as a control message. Datagrams of different sources are never merged.
On a socket bound to all addresses, a control message after that one holds the address to which they came.
"""

from __future__ import annotations

import socket
import struct

from fanout.net import pktinfo
from fanout.net.bind import UDP_GRO
from fanout.protocol.receiving.run import ControlMessages, Run

BUFFER = 65_535
"""Maximum bytes of one call: more than any datagram, or run of them, has."""
SIZE = struct.Struct("=i")
"""The control message of a merged run: the size of its datagrams."""
CONTROL = socket.CMSG_SPACE(SIZE.size) + pktinfo.SPACE
_FIRST = 0xFF  # what frames and probes begin with


def receive(listening: socket.socket, messages: int, calls: int, now: float) -> list[Run]:
    """Read waiting datagrams, at most `messages` in at most `calls` calls; never block.

    The last run may exceed `messages`.
    """
    runs: list[Run] = []
    recvmsg = listening.recvmsg
    make = tuple.__new__
    taken = 0
    control: ControlMessages | None
    try:
        while taken < messages and len(runs) < calls:
            data, control, _, address = recvmsg(BUFFER, CONTROL)
            segment = len(data)
            count = 1
            if control:
                if control[0][1] == UDP_GRO and (size := SIZE.unpack(control[0][2])[0]) > 0:
                    segment = size
                    count = max(1, -(-len(data) // size))
                # Kept only where an answer may follow: it takes as much memory as a small datagram.
                if not data or data[0] != _FIRST:
                    control = None
            # Like Run(...), but in a third of the time: done for each datagram that was not merged.
            runs.append(make(Run, (data, segment, count, address, now, 0, None, None, control, None)))
            taken += count
    except OSError:
        # Nothing waits (EAGAIN), or the interface failed (ENETDOWN), which must not end listening.
        pass
    return runs
