"""Sockets from which the event loop takes little at a time."""

from __future__ import annotations

import socket

READ_MAX = 32 * 1024
"""Bytes that are taken at a time. Each connection may hold some times as many for somebody who takes no more."""
HELD = 16 * 1024
"""Bytes that a connection holds before it is read no further; the library doubles that."""


class Sipped(socket.socket):
    """A socket of which each `recv` returns no more than `READ_MAX` bytes; an event loop would take 256 KiB."""

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive."""
        return super().recv(min(bufsize, READ_MAX), flags)


def sipped(opened: socket.socket) -> Sipped:
    """Return the same socket as such a one; the given one is none any more."""
    return Sipped(opened.family, opened.type, opened.proto, fileno=opened.detach())
