"""Runs of datagrams: how the kernel hands them over in one buffer (UDP_GRO).

With UDP_GRO (man 7 udp; Linux 5.0) one `recvmsg` gives up to 64 KiB: datagrams of one source and of equal size, the
last of which may be shorter, and that size as a control message. Datagrams of different sources are never merged.
On a socket on all addresses, a control message behind that one says to which of them they came.
"""

from __future__ import annotations

import socket
import struct

from fanout.net import pktinfo
from fanout.net.bind import UDP_GRO
from fanout.protocol.receiving.run import Run

BUFFER = 65_535
"""Bytes that one call may give: more than any datagram, and any run of them, has."""
SIZE = struct.Struct("=i")
"""The control message of a merged run: the size of its datagrams."""
CONTROL = socket.CMSG_SPACE(SIZE.size) + pktinfo.SPACE
_FIRST = 0xFF  # what frames and probes begin with


def receive(listening: socket.socket, messages: int, calls: int, now: float) -> list[Run]:
    """Take what waits, until there are `messages` or more, or so many `calls` were made; never block.

    The last run may take it past `messages`.
    """
    runs: list[Run] = []
    recvmsg = listening.recvmsg
    make = tuple.__new__
    taken = 0
    control: pktinfo.Control | None
    try:
        while taken < messages and len(runs) < calls:
            data, control, _, address = recvmsg(BUFFER, CONTROL)
            segment = len(data)
            count = 1
            if control:
                if control[0][1] == UDP_GRO and (size := SIZE.unpack(control[0][2])[0]) > 0:
                    segment = size
                    count = max(1, -(-len(data) // size))
                # It is kept only with what may be answered: it takes as much room as a small datagram.
                if not data or data[0] != _FIRST:
                    control = None
            # Like Run(...), but in a third of the time: it is done for each datagram that comes by itself.
            runs.append(make(Run, (data, segment, count, address, now, 0, None, None, control, None)))
            taken += count
    except OSError:
        # Nothing waits (EAGAIN); or it is of the interface (ENETDOWN), which is no reason to stop listening.
        pass
    return runs
