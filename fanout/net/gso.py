"""Runs of segments (GSO, UDP_SEGMENT in man 7 udp): one send that the kernel cuts into datagrams of equal size."""

from __future__ import annotations

import errno
import socket
import struct
import sys

from fanout.model import MAX_PAYLOAD

Option = list[tuple[int, int, bytes]]

LIMIT = MAX_PAYLOAD if sys.platform == "linux" else 0
"""The largest segment to try; 0 where GSO is not available."""
REFUSALS = frozenset((errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT))
"""Errnos of a run that cannot be sent as one: EIO for a device without checksums, EMSGSIZE or EINVAL for a segment over
the path's MTU; or a kernel without the option."""
_UDP_SEGMENT = 103  # include/uapi/linux/udp.h
_SEGMENT = struct.Struct("=H")
_SMALLEST_MTU = 576


def option(segment: int) -> Option:
    """Return the control message for a run of segments of N bytes; 0 sends a single datagram."""
    return [(socket.IPPROTO_UDP, _UDP_SEGMENT, _SEGMENT.pack(segment))]


def cut(sender: socket.socket, segment: int) -> bool:
    """Cut all sends of the socket into datagrams of N bytes, 0 for off; return whether the kernel can.

    A control message takes precedence.
    """
    try:
        sender.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, segment)
    except OSError:
        return False
    return True


def limit_after(segment: int) -> int:
    """Return the new limit after a run of such segments was refused but the single datagrams were not."""
    return segment - 1 if segment > _SMALLEST_MTU else 0
