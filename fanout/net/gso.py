"""Runs of segments (GSO, UDP_SEGMENT in man 7 udp): one send that the kernel cuts into datagrams of one size."""

from __future__ import annotations

import errno
import socket
import struct
import sys

from fanout.model import MAX_PAYLOAD

Option = list[tuple[int, int, bytes]]

LIMIT = MAX_PAYLOAD if sys.platform == "linux" else 0
"""The largest segment that is tried; 0 where there is no such thing."""
REFUSALS = frozenset((errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT))
"""What says that a run cannot leave as one: EIO a device without checksums, EMSGSIZE or EINVAL a segment over the
path's MTU, or a kernel that does not know the option."""
_UDP_SEGMENT = 103  # include/uapi/linux/udp.h
_SEGMENT = struct.Struct("=H")
_SMALLEST_MTU = 576


def option(segment: int) -> Option:
    """Return the control message of a run whose segments have so many bytes; 0 for what is no run."""
    return [(socket.IPPROTO_UDP, _UDP_SEGMENT, _SEGMENT.pack(segment))]


def cut(sender: socket.socket, segment: int) -> bool:
    """Let whatever is sent be cut into datagrams of so many bytes, 0 for none; return whether the kernel can.

    A control message goes before it.
    """
    try:
        sender.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, segment)
    except OSError:
        return False
    return True


def limit_after(segment: int) -> int:
    """Return the limit once a run of such segments was refused, while the same ones are taken one by one."""
    return segment - 1 if segment > _SMALLEST_MTU else 0
