"""Gathers a whole HTTP body and decompresses it, within bounds. Pure."""

from __future__ import annotations

import zlib

DOCUMENT_MAX = 8 * 1024 * 1024
"""Bytes of a document whose URLs are rewritten, both as sent and decompressed."""
MEMBERS_MAX = 64
"""Members of a compressed body; usually there is one."""
_GZIP = zlib.MAX_WBITS | 16
_WRAPS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": zlib.MAX_WBITS}


class TooLarge(Exception):
    """A body is larger than the limit."""


class Undecodable(Exception):
    """A body is not encoded as its Content-Encoding says."""


def can_unpack(encoding: str) -> bool:
    """Whether a body of that Content-Encoding can be decompressed."""
    return encoding.strip().lower() in ("", "identity", *_WRAPS)


def is_packed(encoding: str) -> bool:
    """Whether a body of that Content-Encoding, a supported one, must be decompressed."""
    return encoding.strip().lower() in _WRAPS


class BodyBuffer:
    """A body that arrives in pieces; `size_max` limits the bytes that were sent and those that they decompress to."""

    def __init__(self, size_max: int, encoding: str = "") -> None:
        self.size_max = size_max
        self._wrap = _WRAPS.get(encoding.strip().lower())
        self._unpacker = None if self._wrap is None else zlib.decompressobj(self._wrap)
        self._beginning = b""
        self._came = 0
        self._members = 1
        self._pieces = bytearray()

    def __len__(self) -> int:
        return len(self._pieces)

    def add(self, piece: bytes) -> None:
        """Take the next piece; raise `TooLarge` or `Undecodable`."""
        self._came += len(piece)
        if self._came > self.size_max:
            raise TooLarge(f"more than {self.size_max} bytes")
        if self._wrap is None:
            self._pieces += piece
            return
        if self._came - len(piece) < 2:
            piece = self._beginning = self._beginning + piece
            if len(piece) < 2:
                return
            if self._wrap == zlib.MAX_WBITS and not _is_zlib(piece):
                # Many leave out the zlib header of "deflate" (RFC 9110, 8.4.1.2).
                self._unpacker = zlib.decompressobj(-self._wrap)
        try:
            self._unpack(piece)
        except zlib.error as error:
            raise Undecodable(str(error)) from error

    def whole(self) -> bytes:
        """Return the whole body; raise `Undecodable` where it is truncated."""
        if self._unpacker is not None and self._came and not self._unpacker.eof:
            raise Undecodable("it is truncated")
        return bytes(self._pieces)

    def _unpack(self, piece: bytes) -> None:
        assert self._unpacker is not None  # noqa: S101 - narrows the type
        while piece:
            if self._unpacker.eof:
                piece = piece.lstrip(b"\0")  # padding
                if self._wrap != _GZIP or not piece:
                    return
                self._members += 1  # RFC 1952, 2.2
                if self._members > MEMBERS_MAX:
                    raise Undecodable(f"it has more than {MEMBERS_MAX} parts")
                self._unpacker = zlib.decompressobj(_GZIP)
            self._pieces += self._unpacker.decompress(piece, self.size_max + 1 - len(self._pieces))
            if len(self._pieces) > self.size_max:
                raise TooLarge(f"more than {self.size_max} bytes once unpacked")
            piece = self._unpacker.unused_data


def _is_zlib(start: bytes) -> bool:
    """Whether a zlib stream begins so (RFC 1950, 2.2)."""
    return start[0] & 0x8F == zlib.DEFLATED and int.from_bytes(start[:2], "big") % 31 == 0
