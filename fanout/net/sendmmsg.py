"""The table of message headers that `sendmmsg` reads (man 2 sendmmsg): made once for a set of pods."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Sequence

from fanout.model import Endpoint
from fanout.net import sockaddr

_ENTRIES = 1024  # in one call: the kernel takes no more (UIO_MAXIOV)
_SLOTS = 64
_HEADER = struct.Struct("@PIPNPNi0P")  # struct msghdr: name, its length, iov, its length, control, its length, flags
_ENTRY = struct.Struct(f"@{_HEADER.format.removeprefix('@')}I0P")  # struct mmsghdr: and the bytes sent

SendMany = Callable[[int, int, int], int]
"""Sends so many entries at an address through a file descriptor; returns how many were taken, or raises OSError."""


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class MessageHeaders:
    """Headers for one message, or for several (`slots`), to each of `endpoints`, all of one family.

    Entry `slot * len(endpoints) + pod` is the copy of that slot's payload for that pod. Raises OSError for a host
    that is no address.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        pods = len(endpoints)
        self.endpoints = endpoints
        self.most = _ENTRIES
        """Entries that one call takes."""
        self.slots = max(1, min(_SLOTS, _ENTRIES // pods))
        names = b"".join(sockaddr.pack(*endpoint) for endpoint in endpoints)
        size = len(names) // pods
        self._names = ctypes.create_string_buffer(names, len(names))
        vectors = (_Vector * self.slots)()
        self._vectors = list(vectors)  # the structures of the array: making them anew costs more than to fill them
        first_name, first_vector = ctypes.addressof(self._names), ctypes.addressof(vectors)
        self._entries = ctypes.create_string_buffer(
            b"".join(
                _ENTRY.pack(first_name + pod * size, size, first_vector + slot * ctypes.sizeof(_Vector), 1, 0, 0, 0, 0)
                for slot in range(self.slots)
                for pod in range(pods)
            )
        )
        self.start = ctypes.addressof(self._entries)
        """Where the first entry begins in memory."""

    def fill(self, payloads: Sequence[bytes]) -> None:
        """Put payloads into the first slots: at most `slots`."""
        for vector, payload in zip(self._vectors, payloads, strict=False):
            vector.base = payload
            vector.length = len(payload)

    def address(self, entry: int) -> int:
        """Return where an entry begins in memory."""
        return self.start + entry * _ENTRY.size


def system_sendmmsg() -> SendMany | None:
    """Return the system's `sendmmsg`; None where it has none, or another layout than Linux."""
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, use_errno=True
        )(("sendmmsg", ctypes.CDLL(None, use_errno=True)))
    except (OSError, AttributeError):
        return None

    def sendmmsg(fileno: int, address: int, count: int) -> int:
        taken: int = function(fileno, address, count, 0)
        if taken < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return taken

    return sendmmsg
