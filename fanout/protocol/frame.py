"""Frames: headers before the payload where a plain datagram is not enough. Specified in `docs/wire-format.md`.

Pure: `decode` parses a datagram, the other functions encode one. Sizes are bytes, numbers are in network
byte order.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

from fanout.protocol.drop_reasons import ReceiveDrop

MAGIC = b"\xfffout\xfe"
VERSION = 1
HEADER = struct.Struct("!6sBBQQ")
"""Magic, version, kind, sender, number."""
SENDER_AT, NUMBER_AT = 8, 16
FRAGMENT = struct.Struct("!BBHII")
"""Flags, attempt, bytes of each fragment, index, bytes of the whole message."""
_FRAGMENT_START = struct.Struct(HEADER.format + FRAGMENT.format.removeprefix("!"))
"""Both headers of a fragment."""
_ANSWER = struct.Struct("!QBBHI")
_ANSWER_START = struct.Struct(HEADER.format + _ANSWER.format.removeprefix("!"))
UINT64 = struct.Struct("!Q")
"""One field of 8 bytes: a sender, a number, an origin, an asker."""
SEALED_PART = struct.Struct("!QI")
"""Counter and time of a sealed frame, between the header and the ciphertext."""
NUMBER_LIMIT = 2**63
"""Message numbers are from 1 to below it."""
MESSAGE_MAX = 16 * 1024 * 1024
"""Maximum bytes of a message."""
FRAGMENT_MIN = 256
"""Minimum bytes of a fragment where a message has several: it bounds what a claim costs the receiver."""
ASK_MIN = 128
"""Minimum bytes of a frame that asks for an answer, so that an answer with a reason is not larger."""
PULLS_MAX = 64
"""Maximum fragments of a reply that one frame asks for."""
REPLIES_UNASKED = 32
"""Maximum fragments of a reply that are sent without being pulled."""
FRAGMENT_OVERHEAD = HEADER.size + FRAGMENT.size
REPLY_OVERHEAD = FRAGMENT_OVERHEAD + UINT64.size
ANSWER_OVERHEAD = HEADER.size + _ANSWER.size
SEALED_OVERHEAD = SEALED_PART.size + 16
"""What sealing adds: counter, time and the tag."""
SEALED = 0x80
"""The bit of the kind that marks a sealed frame."""


class FrameKind(IntEnum):
    """What a frame is."""

    NUMBERED = 1
    """A whole message of a numbered stream."""
    MARK = 2
    """How far a numbered stream has come: its last messages may be lost."""
    FRAGMENT = 3
    """A message, or a part of it."""
    ANSWER = 4
    """What became of a message: the answer to a fragment that asks."""
    REPLY = 5
    """A reply to a query, or a part of it."""
    PULL = 6
    """Asks for missing parts of a reply."""


_KINDS = frozenset(FrameKind)
NUMBERED, ASK, QUERY = 1, 2, 4
"""Flags of a fragment: of a numbered stream; asks for an answer; asks for a reply."""
_FLAGS = NUMBERED | ASK | QUERY


class AnswerStatus(IntEnum):
    """What an answer says of a message."""

    CONFIRMED = 1
    """It was handed over and its handler has returned."""
    FAILED = 2
    """Its handler failed; the detail says how."""
    PENDING = 3
    """It has arrived completely, but its handler has not returned yet."""
    PARTIAL = 4
    """Fragments are missing; the detail says which."""
    REFUSED = 5
    """It will not be handed over; the detail says why."""


class InvalidFrame(Exception):
    """A datagram that is not a frame of this version: a `reason` to count, and a sentence."""

    def __init__(self, reason: ReceiveDrop, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Numbered(NamedTuple):
    """See `FrameKind.NUMBERED`."""

    sender: int
    number: int
    payload: bytes


class Mark(NamedTuple):
    """See `FrameKind.MARK`: `number` is the last one sent."""

    sender: int
    number: int
    origin: int
    """The first number sent to this receiver."""


class Fragment(NamedTuple):
    """See `FrameKind.FRAGMENT`; a message that fits in one datagram is one fragment."""

    sender: int
    number: int
    flags: int
    attempt: int
    """How often this message was sent to this receiver before, modulo 256; an answer repeats it."""
    size: int
    """Bytes of each fragment but the last."""
    position: int
    """Index of this fragment, from 0."""
    total: int
    """Bytes of the whole message."""
    payload: bytes


class Answer(NamedTuple):
    """See `FrameKind.ANSWER`: `sender` is who answers, `asker` and `number` name the message."""

    sender: int
    number: int
    asker: int
    attempt: int
    status: AnswerStatus
    first_missing: int
    """Index of the first missing fragment of a partial message."""
    detail: bytes
    """A reason (UTF-8); of a partial message, a bit for each fragment from `first_missing` on: whether it is there."""


class ReplyFragment(NamedTuple):
    """See `FrameKind.REPLY`: `sender` is who replies, `asker` and `number` name the query."""

    sender: int
    number: int
    asker: int
    attempt: int
    size: int
    position: int
    total: int
    payload: bytes


class Pull(NamedTuple):
    """See `FrameKind.PULL`: the fragments wanted of the reply to query `number`."""

    sender: int
    number: int
    indexes: tuple[int, ...]


class Sealed(NamedTuple):
    """A frame of any kind, with an encrypted body, authenticated as a whole."""

    sender: int
    number: int
    counter: int
    time: int
    """Seconds since the epoch, on the sender's clock."""
    header: bytes
    """The header of the unsealed frame."""
    associated: bytes
    """What is authenticated but not encrypted."""
    ciphertext: bytes


Frame = Numbered | Mark | Fragment | Answer | ReplyFragment | Pull | Sealed


def fragment_count(total: int, size: int) -> int:
    """Return how many fragments of `size` bytes a message of `total` bytes has; an empty one has one."""
    return max(1, -(-total // size))


def decode(datagram: bytes) -> Frame:
    """Decode a datagram; raise `InvalidFrame`. Allocates nothing on the strength of what it claims."""
    if len(datagram) < HEADER.size:
        raise InvalidFrame(ReceiveDrop.MALFORMED, f"a frame of {len(datagram)} bytes is shorter than its header")
    magic, version, kind, sender, number = HEADER.unpack_from(datagram)
    if magic != MAGIC:
        raise InvalidFrame(ReceiveDrop.MALFORMED, "not a frame: it begins differently")
    if version != VERSION:
        raise InvalidFrame(ReceiveDrop.UNKNOWN_VERSION, f"a frame of version {version}, not {VERSION}")
    if kind & ~SEALED not in _KINDS:
        raise InvalidFrame(ReceiveDrop.UNKNOWN_KIND, f"a frame of kind {kind & ~SEALED}")
    if not 1 <= number < NUMBER_LIMIT:
        raise InvalidFrame(ReceiveDrop.MALFORMED, f"message number {number} is out of range")
    if kind & SEALED:
        return _sealed(datagram, kind, sender, number)
    body = datagram[HEADER.size :]
    if kind == FrameKind.NUMBERED:
        return Numbered(sender, number, body)
    try:
        return _DECODERS[kind](sender, number, body)
    except struct.error:
        raise InvalidFrame(
            ReceiveDrop.MALFORMED, f"a {FrameKind(kind).name} of {len(datagram)} bytes is cut off"
        ) from None


def _sealed(datagram: bytes, kind: int, sender: int, number: int) -> Sealed:
    if len(datagram) < HEADER.size + SEALED_OVERHEAD:
        raise InvalidFrame(ReceiveDrop.MALFORMED, f"a sealed frame of {len(datagram)} bytes is cut off")
    counter, seconds = SEALED_PART.unpack_from(datagram, HEADER.size)
    start = HEADER.size + SEALED_PART.size
    inner = header(FrameKind(kind & ~SEALED), sender, number)
    return Sealed(sender, number, counter, seconds, inner, datagram[:start], datagram[start:])


def _mark(sender: int, number: int, body: bytes) -> Mark:
    (origin,) = UINT64.unpack(body)
    if not 1 <= origin <= number:
        raise InvalidFrame(ReceiveDrop.MALFORMED, f"a stream from {origin} to {number}")
    return Mark(sender, number, origin)


def _fragment(sender: int, number: int, body: bytes) -> Fragment:
    flags, attempt, size, index, total = FRAGMENT.unpack_from(body)
    if flags & ~_FLAGS:
        raise InvalidFrame(ReceiveDrop.UNKNOWN_FLAGS, f"a fragment with flags {flags & ~_FLAGS:#04x}")
    if flags & ASK and HEADER.size + len(body) < ASK_MIN:
        raise InvalidFrame(ReceiveDrop.MALFORMED, f"a frame under {ASK_MIN} bytes asks for an answer")
    payload = _cut_out(body, FRAGMENT.size, size, index, total)
    return Fragment(sender, number, flags, attempt, size, index, total, payload)


def _answer(sender: int, number: int, body: bytes) -> Answer:
    asker, attempt, status, zero, first_missing = _ANSWER.unpack_from(body)
    if not AnswerStatus.CONFIRMED <= status <= AnswerStatus.REFUSED or zero:
        raise InvalidFrame(ReceiveDrop.MALFORMED, f"an answer with status {status}, {zero}")
    return Answer(sender, number, asker, attempt, AnswerStatus(status), first_missing, body[_ANSWER.size :])


def _reply(sender: int, number: int, body: bytes) -> ReplyFragment:
    (asker,) = UINT64.unpack_from(body)
    flags, attempt, size, index, total = FRAGMENT.unpack_from(body, UINT64.size)
    if flags:
        raise InvalidFrame(ReceiveDrop.UNKNOWN_FLAGS, f"a reply with flags {flags:#04x}")
    payload = _cut_out(body, UINT64.size + FRAGMENT.size, size, index, total)
    return ReplyFragment(sender, number, asker, attempt, size, index, total, payload)


def _pull(sender: int, number: int, body: bytes) -> Pull:
    count, rest = divmod(len(body), 4)
    if rest or not 1 <= count <= PULLS_MAX:
        raise InvalidFrame(ReceiveDrop.MALFORMED, f"a pull with {len(body)} bytes of indexes")
    return Pull(sender, number, struct.unpack(f"!{count}I", body))


_DECODERS: dict[int, Callable[[int, int, bytes], Frame]] = {
    FrameKind.MARK: _mark,
    FrameKind.FRAGMENT: _fragment,
    FrameKind.ANSWER: _answer,
    FrameKind.REPLY: _reply,
    FrameKind.PULL: _pull,
}


def _cut_out(body: bytes, start: int, size: int, index: int, total: int) -> bytes:
    """Return the fragment's payload without padding; raise `InvalidFrame` where the sizes disagree."""
    if size == 0 or total > MESSAGE_MAX:
        raise InvalidFrame(ReceiveDrop.MALFORMED, f"a message of {total} bytes in fragments of {size}")
    count = fragment_count(total, size)
    if index >= count or (count > 1 and size < FRAGMENT_MIN):
        raise InvalidFrame(ReceiveDrop.MALFORMED, f"fragment {index} of {count}, of {size} bytes each")
    length = min(size, total - index * size)
    if len(body) < start + length:
        raise InvalidFrame(ReceiveDrop.MALFORMED, f"a fragment of {length} bytes has {len(body) - start}")
    return body[start : start + length]


def header(kind: FrameKind, sender: int, number: int) -> bytes:
    """Return the header of a frame."""
    return HEADER.pack(MAGIC, VERSION, kind, sender, number)


def numbered_prefix(sender: int) -> bytes:
    """Return the first bytes of a sender's numbered messages; 8 bytes of number and the payload follow."""
    return header(FrameKind.NUMBERED, sender, 0)[:NUMBER_AT]


def mark(sender: int, number: int, origin: int) -> bytes:
    """Return a mark."""
    return header(FrameKind.MARK, sender, number) + UINT64.pack(origin)


class Cut(NamedTuple):
    """A message or a reply, cut into fragments of `size` bytes."""

    payload: bytes
    size: int

    @classmethod
    def of(cls, payload: bytes, size: int) -> Cut:
        """Cut a message; one of up to `size` bytes is one fragment."""
        return cls(payload, size if len(payload) > size else max(1, len(payload)))

    @property
    def parts(self) -> int:
        """Number of fragments."""
        return fragment_count(len(self.payload), self.size)


def fragment(cut: Cut, sender: int, number: int, index: int, *, flags: int, attempt: int = 0, pad: int = 0) -> bytes:
    """Return one fragment of a message, padded to `pad` bytes, and to at least `ASK_MIN` where it asks."""
    payload, size = cut
    start = index * size
    fields = _FRAGMENT_START.pack(
        MAGIC, VERSION, FrameKind.FRAGMENT, sender, number, flags, attempt & 0xFF, size, index, len(payload)
    )
    frame = fields + payload[start : start + size]
    return frame.ljust(max(pad, ASK_MIN) if flags & ASK else pad, b"\0")


def answer(
    sender: int,
    number: int,
    asker: int,
    attempt: int,
    status: AnswerStatus,
    *,
    first_missing: int = 0,
    detail: bytes = b"",
) -> bytes:
    """Return an answer."""
    fields = (asker, attempt, status, 0, first_missing)
    return _ANSWER_START.pack(MAGIC, VERSION, FrameKind.ANSWER, sender, number, *fields) + detail


def reply(cut: Cut, sender: int, number: int, asker: int, index: int, attempt: int) -> bytes:
    """Return one fragment of a reply."""
    payload, size = cut
    start = index * size
    fields = UINT64.pack(asker) + FRAGMENT.pack(0, attempt & 0xFF, size, index, len(payload))
    return header(FrameKind.REPLY, sender, number) + fields + payload[start : start + size]


def pull(sender: int, number: int, indexes: Sequence[int]) -> bytes:
    """Return a pull of up to `PULLS_MAX` fragments."""
    return header(FrameKind.PULL, sender, number) + struct.pack(f"!{len(indexes)}I", *indexes)


def bitmap(present: Sequence[bool]) -> bytes:
    """Return a bit for each item, highest bit of the first byte first, zero-padded to whole bytes."""
    bits = "".join("1" if one else "0" for one in present)
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8))


def bits(data: bytes) -> list[bool]:
    """Return the bits of a bitmap."""
    return [bool(byte >> shift & 1) for byte in data for shift in range(7, -1, -1)]
