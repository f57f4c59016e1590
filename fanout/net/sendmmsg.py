"""The table of message headers for `sendmmsg` (man 2 sendmmsg), made once for a set of pods."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Sequence

from fanout.model import Endpoint
from fanout.net import sockaddr

_ENTRIES = 1024  # maximum of one call in the kernel (UIO_MAXIOV)
_SLOTS = 64
_HEADER = struct.Struct("@PIPNPNi0P")  # struct msghdr: name, its length, iov, its length, control, its length, flags
_ENTRY = struct.Struct(f"@{_HEADER.format.removeprefix('@')}I0P")  # struct mmsghdr: and the bytes sent

SendMany = Callable[[int, int, int], int]
"""Takes a file descriptor, an address and a count of entries; returns how many were sent, or raises OSError."""


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class MessageHeaders:
    """Headers for one message, or for several (`slots`), to each of `endpoints`, all of one family.

    Entry `slot * len(endpoints) + pod` is the copy of that slot's payload for that pod. Raises OSError for a host
    that is not an address.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        pods = len(endpoints)
        self.endpoints = endpoints
        self.most = _ENTRIES
        """Maximum entries in one call."""
        self.slots: int = max(1, min(_SLOTS, _ENTRIES // pods))
        names = b"".join(sockaddr.pack(*endpoint) for endpoint in endpoints)
        size = len(names) // pods
        self._names = ctypes.create_string_buffer(names, len(names))
        vectors = (_Vector * self.slots)()
        self._vectors = list(vectors)  # the structures of the array: creating them again costs more than filling them
        first_name, first_vector = ctypes.addressof(self._names), ctypes.addressof(vectors)
        self._entries = ctypes.create_string_buffer(
            b"".join(
                _ENTRY.pack(first_name + pod * size, size, first_vector + slot * ctypes.sizeof(_Vector), 1, 0, 0, 0, 0)
                for slot in range(self.slots)
                for pod in range(pods)
            )
        )
        self.start: int = ctypes.addressof(self._entries)
        """The address of the first entry."""

    def fill(self, payloads: Sequence[bytes]) -> None:
        """Put at most `slots` payloads into the first slots."""
        for vector, payload in zip(self._vectors, payloads, strict=False):
            vector.base = payload
            vector.length = len(payload)

    def address(self, entry: int) -> int:
        """Return the address of an entry."""
        return self.start + entry * _ENTRY.size


def system_sendmmsg() -> SendMany | None:
    """Return the system's `sendmmsg`; None where it is missing, or not Linux."""
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
