"""Seals: frames encrypted and authenticated with a shared key. Specified in `docs/wire-format.md`.

A `Sealer` seals the frames of one sender; an `Opener` opens those of many, each sealed frame once. Pure: the
time is an argument, in seconds since the epoch.

AES-256-GCM with a key for each sender: HKDF-SHA256 of the shared key and the sender's id. The nonce is the counter
after the header, which no sender uses twice. The header, counter, time and cluster label are authenticated.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import NamedTuple

from fanout.errors import KeyUnavailable
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import (
    HEADER,
    MAGIC,
    NUMBER_AT,
    SEALED,
    SEALED_OVERHEAD,
    SEALED_PART,
    SENDER_AT,
    UINT64,
    VERSION,
    FrameKind,
    InvalidFrame,
    Sealed,
)
from fanout.protocol.sequence import Sequence

KEY_SIZE = 32
"""Bytes of a key."""
KEYS_MAX = 16
"""Maximum keys in one keyring: a forged frame costs its receiver a try with each."""
FRESHNESS = 300.0
"""Maximum seconds between the clocks of a new sender and its receiver, including the delay on the way."""
_INFO = b"fanout sealed frame 1"
_NONCE = struct.Struct("!4xQ")
_START = struct.Struct(f"!{NUMBER_AT}sQQI")
_TIME_MASK = 0xFFFFFFFF
_KIND_AT = len(MAGIC) + 1
_BEGINNING = MAGIC + bytes((VERSION,))
SEALED_STREAM = _BEGINNING + bytes((FrameKind.NUMBERED | SEALED,))
"""The first bytes of each sealed message of a numbered stream."""
_TEXT_AT = HEADER.size + SEALED_PART.size
_HEXADECIMAL = re.compile(rb"[0-9a-fA-F]{64}")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_Crypt = Callable[[bytes, bytes | memoryview, bytes], bytes]
"""Encrypts or decrypts: nonce, text, associated data."""


class Keyring(NamedTuple):
    """The keys of a group: the first seals, all open."""

    keys: tuple[bytes, ...]

    @classmethod
    def parse(cls, text: bytes, where: str) -> Keyring:
        """Return the keys of a file: one per line, as base64 or 64 hexadecimal digits; blank lines and # comments.

        Raises `KeyUnavailable`, which names `where` and the line, never its content.
        """
        if b"\0" in text:
            raise KeyUnavailable(f"{where} must be a text file with one key per line: make one with `fanout keygen`")
        keys: dict[bytes, None] = {}
        for number, line in enumerate(text.removeprefix(_BYTE_ORDER_MARK).splitlines(), start=1):
            written = line.partition(b"#")[0].strip()
            if written:
                keys[_key(written, f"line {number} of {where}")] = None
            if len(keys) > KEYS_MAX:
                raise KeyUnavailable(f"{where} must hold at most {KEYS_MAX} keys: remove those no longer in use")
        if not keys:
            raise KeyUnavailable(f"{where} holds no key: make one with `fanout keygen`")
        return cls(tuple(keys))

    def __repr__(self) -> str:
        """Show no key."""
        return f"Keyring({len(self.keys)} keys)"


def _key(written: bytes, where: str) -> bytes:
    """Return the key that a line holds."""
    if _HEXADECIMAL.fullmatch(written):
        return bytes.fromhex(written.decode("ascii"))
    digits = written.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    try:
        key = base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error:
        raise KeyUnavailable(
            f"{where} must be a key of {KEY_SIZE} bytes, as base64 or {2 * KEY_SIZE} hexadecimal digits: "
            "make one with `fanout keygen`"
        ) from None
    if len(key) != KEY_SIZE:
        raise KeyUnavailable(f"{where} must be a key of {KEY_SIZE} bytes; got {len(key)}: use `fanout keygen`")
    return key


def subkey(key: bytes, sender: int) -> bytes:
    """Return the key of one sender: HKDF-SHA256 (RFC 5869), whose output is one block here."""
    extracted = hmac.digest(UINT64.pack(sender), key, "sha256")
    return hmac.digest(extracted, _INFO + b"\1", "sha256")


def _label(cluster: str) -> bytes:
    """Return a cluster's label as authenticated; one that is not UTF-8 keeps its bytes."""
    return cluster.encode("utf-8", "surrogateescape")


class _Cipher(NamedTuple):
    """AES-256-GCM with the key of one sender."""

    encrypt: _Crypt
    decrypt: _Crypt


class _Ciphers:
    """Makes ciphers; creating it imports the cryptography package."""

    def __init__(self) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise KeyUnavailable("sealed messages need the cryptography package: pip install cryptography") from None
        self.wrong: type[Exception] = InvalidTag
        """The exception that `decrypt` raises where the key or any bit is wrong."""
        self._make = AESGCM

    def of(self, key: bytes, sender: int) -> _Cipher:
        """Return the cipher of a sender."""
        made = self._make(subkey(key, sender))
        return _Cipher(made.encrypt, made.decrypt)


class Sealer:
    """Seals the frames of one sender; threads may share it.

    `counter` is the first nonce. No nonce may be used twice with the same keys and `sender`: begin with the
    nanoseconds since the epoch, which a count of datagrams never overtakes.
    """

    def __init__(self, keyring: Keyring, cluster: str, sender: int, counter: int) -> None:
        self._ciphers = _Ciphers()
        self._label = _label(cluster)
        self._sender = sender
        self._prefix = SEALED_STREAM + UINT64.pack(sender)
        self._counters = count(counter)
        self.use(keyring)

    def use(self, keyring: Keyring) -> None:
        """Seal with the first of these keys from now on."""
        self._encrypt = self._ciphers.of(keyring.keys[0], self._sender).encrypt
        self.keyring: Keyring = keyring
        """Read-only: `use` changes it."""

    def seal_many(self, frames: Iterable[bytes], now: float) -> list[bytes]:
        """Return frames of this sender, each sealed."""
        encrypt, nonce, part, label = self._encrypt, _NONCE.pack, SEALED_PART.pack, self._label
        sender = self._prefix[SENDER_AT:]
        time = int(now) & _TIME_MASK
        sealed = []
        # Each counter is taken from the iterator once, whatever fails, and from any thread.
        for each, counter in zip(frames, self._counters, strict=False):
            kind = bytes((each[_KIND_AT] | SEALED,))
            start = b"".join((_BEGINNING, kind, sender, each[NUMBER_AT : HEADER.size], part(counter, time)))
            sealed.append(start + encrypt(nonce(counter), each[HEADER.size :], start + label))
        return sealed

    def seal_stream(self, number: int, payloads: Iterable[bytes], now: float) -> list[bytes]:
        """Return the sealed frames of a numbered stream from `number` on, faster than `seal_many`."""
        encrypt, nonce, start, label, prefix = self._encrypt, _NONCE.pack, _START.pack, self._label, self._prefix
        time = int(now) & _TIME_MASK
        return [
            (clear := start(prefix, one, counter, time))
            + encrypt(nonce(counter), payload, clear + label if label else clear)
            for payload, one, counter in zip(payloads, count(number), self._counters, strict=False)
        ]


@dataclass(slots=True, eq=False)
class _KnownSender:
    """A sender that has sealed a frame with one of the keys."""

    key: bytes
    decrypt: _Crypt
    sequence: Sequence
    first: int
    """Frames below it may have been opened before this sender was known."""
    newest: int
    """The latest time in a frame of this sender."""
    since: float
    """Frames sealed before may have been opened, and their sender forgotten since."""


class OpenedRun(NamedTuple):
    """Frames of one kind and one sender that were opened together."""

    prefix: bytes
    """Magic, version, sealed kind and sender of each."""
    numbers: tuple[int, ...]
    bodies: list[bytes]

    @property
    def is_stream(self) -> bool:
        """Whether they are messages of a numbered stream, whose bodies are payloads."""
        return self.prefix.startswith(SEALED_STREAM)

    @property
    def sender(self) -> int:
        """The sender that sealed them."""
        return int.from_bytes(self.prefix[SENDER_AT:])

    def frames(self) -> list[bytes]:
        """Return them as unsealed frames."""
        start = self.prefix[:_KIND_AT] + bytes((self.prefix[_KIND_AT] & ~SEALED,)) + self.prefix[SENDER_AT:]
        return [start + UINT64.pack(number) + body for number, body in zip(self.numbers, self.bodies, strict=True)]


class Opener:
    """Opens frames sealed with shared keys, each at most once; for one thread at a time.

    * A new sender is accepted where its frame's time is within `freshness` seconds of `now`. So is a frame older than
      the first one seen, since what was opened before is unknown.
    * A frame sealed more than `freshness` seconds before its sender was accepted is never opened.
    * After that the counters decide: each is opened once; one that is `window` or more behind the highest is refused.
    * A table holds up to `senders`. A sender is forgotten only where the table is full and its newest frame is no
      longer fresh: a replay is then refused for its time. Where all are fresh, a new sender is refused.
    * Only holders of a key enter the table, or cost more than a few microseconds.
    """

    def __init__(
        self, keyring: Keyring, cluster: str, *, freshness: float = FRESHNESS, senders: int = 4096, window: int = 4096
    ) -> None:
        self._ciphers = _Ciphers()
        self._wrong = self._ciphers.wrong
        self.keyring: Keyring = keyring
        """Read-only: `use` changes it."""
        self._label = _label(cluster)
        self._freshness = freshness
        self._limit = senders
        self._window = window
        self._senders: dict[int, _KnownSender] = {}
        self._full_until = float("-inf")
        """Until then no sender in the full table can be forgotten."""

    def __len__(self) -> int:
        """Return the number of known senders."""
        return len(self._senders)

    def use(self, keyring: Keyring) -> None:
        """Open with these keys from now on; a removed key opens nothing more."""
        self.keyring = keyring
        for known in self._senders.values():
            if known.key not in keyring.keys:
                known.key, known.decrypt = b"", self._never

    def _never(self, _nonce: bytes, _text: bytes | memoryview, _associated: bytes) -> bytes:
        raise self._wrong

    def open(self, sealed: Sealed, now: float) -> bytes:
        """Return the unsealed frame; raise `InvalidFrame`."""
        sender, _, counter, seconds, header, associated, text = sealed
        known = self._senders.get(sender)
        if known is None:
            return self._open_first(sealed, now)
        sequence = known.sequence
        ahead = counter - sequence.expected
        if ahead < 0:
            # Checked before decrypting: a replay costs nothing.
            window = self._window
            if ahead < -window:
                raise InvalidFrame(
                    ReceiveDrop.TOO_OLD, "a sealed frame far behind the sender's last: it may be a replay"
                )
            if sequence.seen[counter % window]:
                raise InvalidFrame(ReceiveDrop.REPLAYED, "a sealed frame that was opened before")
            if counter < known.first:
                self._check_freshness(seconds, now)
        if seconds < known.since:
            raise InvalidFrame(
                ReceiveDrop.STALE, "a frame sealed long before its sender was known: old, or its clock went back"
            )
        try:
            inner = known.decrypt(_NONCE.pack(counter), text, associated + self._label)
        except self._wrong:
            key, cipher, inner = self._try_keys(sealed, tried=known.key)
            known.key, known.decrypt = key, cipher.decrypt
        if ahead:
            sequence.arrived(counter)
        else:  # the same, without a call: most frames arrive in order
            sequence.seen[counter % self._window] = 1
            sequence.expected = counter + 1
        if seconds > known.newest:
            known.newest = seconds
        return header + inner

    def open_run(self, data: bytes, segment: int, count: int) -> OpenedRun | None:
        """Open `count` datagrams at once, each `segment` bytes (the last may have fewer).

        Return None, and open nothing, unless they are of one kind and one known sender, in order, and authentic, as
        those of a stream nearly always are.
        """
        if len(data) - (count - 1) * segment < HEADER.size + SEALED_OVERHEAD:
            return None
        fields = _run_starts(segment, count).unpack_from(data)
        prefix = fields[0]
        known = self._senders.get(int.from_bytes(prefix[SENDER_AT:]))
        if known is None or fields[::4].count(prefix) != count or not prefix.startswith(_BEGINNING):
            return None
        counters, times = fields[2::4], fields[3::4]
        first = counters[0]
        if (
            first < known.sequence.expected
            or counters != tuple(range(first, first + count))
            or min(times) < known.since
        ):
            return None
        view, decrypt, nonce, label = memoryview(data), known.decrypt, _NONCE.pack, self._label
        starts = range(0, len(data), segment)
        try:
            opened = [
                decrypt(nonce(counter), view[text : at + segment], data[at:text] + label if label else data[at:text])
                for at, text, counter in zip(starts, range(_TEXT_AT, len(data), segment), counters, strict=True)
            ]
        except self._wrong:
            return None
        known.sequence.skip(first - known.sequence.expected)
        known.sequence.run_arrived(count)
        known.newest = max(known.newest, *times)
        return OpenedRun(prefix, fields[1::4], opened)

    def _open_first(self, sealed: Sealed, now: float) -> bytes:
        """Open a frame of a new sender."""
        self._check_freshness(sealed.time, now)
        key, cipher, inner = self._try_keys(sealed)
        if len(self._senders) >= self._limit:
            self._forget(now)
        sequence = Sequence(self._window, sealed.counter)
        known = _KnownSender(key, cipher.decrypt, sequence, sealed.counter, sealed.time, now - self._freshness)
        known.sequence.arrived(sealed.counter)
        self._senders[sealed.sender] = known
        self._full_until = min(self._full_until, sealed.time + self._freshness)
        return sealed.header + inner

    def _check_freshness(self, seconds: int, now: float) -> None:
        # Written so that NaN for `now` refuses.
        if not abs(now - seconds) <= self._freshness:
            raise InvalidFrame(
                ReceiveDrop.STALE,
                f"a frame sealed {now - seconds:+,.0f} s ago, by a sender not seen before: old, or the clocks differ",
            )

    def _try_keys(self, sealed: Sealed, tried: bytes | None = None) -> tuple[bytes, _Cipher, bytes]:
        """Return the key that opens the frame, its cipher and the body; raise `InvalidFrame`."""
        nonce, associated = _NONCE.pack(sealed.counter), sealed.associated + self._label
        for key in self.keyring.keys:
            if key == tried:
                continue
            cipher = self._ciphers.of(key, sealed.sender)
            try:
                return key, cipher, cipher.decrypt(nonce, sealed.ciphertext, associated)
            except self._wrong:
                continue
        raise InvalidFrame(
            ReceiveDrop.WRONG_KEY, "no key opens a sealed frame: sealed with another key or cluster label, or altered"
        )

    def _forget(self, now: float) -> None:
        """Forget the senders whose frames would be refused for their time; raise `InvalidFrame` if none."""
        if now > self._full_until:
            oldest = now - self._freshness
            self._senders = {sender: known for sender, known in self._senders.items() if known.newest >= oldest}
            newest = (known.newest for known in self._senders.values())
            self._full_until = min(newest, default=float("inf")) + self._freshness
        if len(self._senders) >= self._limit:
            raise InvalidFrame(
                ReceiveDrop.SENDERS_FULL, f"a new sender of sealed frames, but the table of {self._limit} is full"
            )


@lru_cache(64)
def _run_starts(segment: int, count: int) -> struct.Struct:
    """Return a struct that reads the clear headers of all datagrams of a run at once: Python loops are slow."""
    each = f"{NUMBER_AT}sQQI"
    return struct.Struct("!" + f"{each}{segment - _TEXT_AT}x" * (count - 1) + each)
