"""Reads whole bodies within bounds, those included that were compressed."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable

DOCUMENT_MAX = 16 * 1024 * 1024
"""Bytes of a document whose URLs are rewritten, as sent and as unpacked."""
_WRAPS = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


class TooLarge(Exception):
    """There is more than is read."""


class Undecodable(Exception):
    """It is not packed as it says."""


async def read(next_piece: Callable[[], Awaitable[bytes]], size_max: int) -> bytes:
    """Return all pieces up to an empty one; raise `TooLarge` as soon as there is more than `size_max`."""
    pieces = bytearray()
    while piece := await next_piece():
        if len(pieces) + len(piece) > size_max:
            raise TooLarge(f"more than {size_max} bytes")
        pieces += piece
    return bytes(pieces)


def can_unpack(encoding: str) -> bool:
    """Whether `unpack` knows that Content-Encoding."""
    return encoding.strip().lower() in ("", "identity", *_WRAPS)


def unpack(body: bytes, encoding: str, size_max: int) -> bytes:
    """Return what was packed; raise `TooLarge` and `Undecodable`."""
    wrap = _WRAPS.get(encoding.strip().lower())
    if wrap is None:
        return body
    if wrap == zlib.MAX_WBITS and body[:1] and body[0] & 0x0F != zlib.DEFLATED:
        wrap = -wrap  # without the header that "deflate" should have (RFC 9110, 8.4.1.2)
    unpacked = bytearray()
    while body:
        unpacker = zlib.decompressobj(wrap)
        try:
            unpacked += unpacker.decompress(body, size_max - len(unpacked) + 1)
        except zlib.error as error:
            raise Undecodable(str(error)) from error
        if len(unpacked) > size_max or unpacker.unconsumed_tail:
            raise TooLarge(f"more than {size_max} bytes once unpacked")
        if not unpacker.eof:
            raise Undecodable("it ends in the middle")
        body = unpacker.unused_data.lstrip(b"\0") if wrap > zlib.MAX_WBITS else b""  # gzip may have several members
    return bytes(unpacked)
