"""Encodes a sender's frames: its identity, their numbers and seals."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING

from fanout import options
from fanout.model import MAX_PAYLOAD, Endpoint, check_payload
from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import MAGIC, Answer, Cut, InvalidFrame, ReplyFragment, Sealed
from fanout.sender.steps import Copies

if TYPE_CHECKING:
    from fanout.net.key_file import KeyFile
    from fanout.protocol.seal import Opener, Sealer

MAX_DATAGRAM = 1200
"""Bytes of payload in a framed datagram: with all headers about IPv6's minimum MTU of 1,280."""
_MOST = MAX_PAYLOAD - frame.REPLY_OVERHEAD - frame.SEALED_OVERHEAD
_MARKS = 3
"""Copies of each mark: they are not acknowledged."""
_FRAGMENTS = 32
"""Unconfirmed fragments of a large message that leave at once: a default receive buffer holds them."""
_PAUSE = 0.001
"""Seconds between two such bursts."""


def check_max_datagram(size: int | None) -> int | None:
    """Return `max_datagram`, bytes of payload in a framed datagram, or None; raise `InvalidInput`."""
    if size is None:
        return None
    return options.whole_number("max_datagram", size, least=frame.FRAGMENT_MIN, most=_MOST, unit="bytes")


class Encoder:
    """Encodes a sender's frames, and decodes the answers. Thread-safe.

    Numbers follow the order in which messages leave: a thread that takes some holds `order` until they have left.
    (The tasks of an event loop hold the lock of its queue.)
    """

    def __init__(self, is_numbered: bool, max_datagram: int | None, key_file: str | None, cluster: str) -> None:
        self.fragment_size: int = check_max_datagram(max_datagram) or MAX_DATAGRAM
        self.is_numbered: bool = is_numbered or key_file is not None
        self.identity: int = random.SystemRandom().getrandbits(64)
        self.order: threading.Lock = threading.Lock()
        self._last = 0
        self._prefix = frame.numbered_prefix(self.identity)
        self._origins: dict[Endpoint, int] = {}
        self._origins_of: tuple[Endpoint, ...] = ()
        self._keys: KeyFile | None = None
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        path = options.key_path(key_file)
        self.is_sealed: bool = path is not None
        options.cluster_label(cluster, key_file)
        if path is not None:
            from fanout.net.key_file import KeyFile
            from fanout.protocol.seal import Opener, Sealer

            self._keys = KeyFile(path)
            keyring = self._keys.keyring()
            self._sealer = Sealer(keyring, cluster, self.identity, time.time_ns())
            self._opener = Opener(keyring, cluster)

    def take_numbers(self, messages: int, endpoints: tuple[Endpoint, ...]) -> int:
        """Return the first of N consecutive numbers, for N messages to these pods."""
        first = self._last + 1
        self._last += messages
        if endpoints is not self._origins_of:
            self._origins_of = endpoints
            self._origins = {endpoint: self._origins.get(endpoint, first) for endpoint in endpoints}
        return first

    def copies(self, payloads: Sequence[bytes], endpoints: tuple[Endpoint, ...], gso_limit: int) -> Iterator[Copies]:
        """Yield the copies of unconfirmed messages: all at once, unless some have to be fragmented."""
        if max(map(len, payloads)) <= self.fragment_size:
            frames = self._frames(payloads, endpoints)
            yield Copies(frames, endpoints, gso_limit, size=sum(map(len, payloads)))
            return
        for payload in payloads:
            frames = self._fragments(payload, endpoints)
            yield Copies(frames[:_FRAGMENTS], endpoints, gso_limit, messages=1, size=len(payload))
            for start in range(_FRAGMENTS, len(frames), _FRAGMENTS):
                part = frames[start : start + _FRAGMENTS]
                yield Copies(part, endpoints, gso_limit, messages=0, size=0, pause=_PAUSE)

    def _frames(self, payloads: Sequence[bytes], endpoints: tuple[Endpoint, ...]) -> Sequence[bytes]:
        """Return one datagram for each message; all fit without fragmentation."""
        if not self.is_numbered:
            return payloads
        number = self.take_numbers(len(payloads), endpoints)
        if self._sealer is not None:
            self.follow_keys()
            return self._sealer.seal_stream(number, payloads, time.time())
        # One pass without a Python loop: streams reach a million messages a second.
        numbers = map(frame.UINT64.pack, range(number, number + len(payloads)))
        return list(map(b"".join, zip(repeat(self._prefix), numbers, payloads, strict=False)))

    def _fragments(self, payload: bytes, endpoints: tuple[Endpoint, ...]) -> Sequence[bytes]:
        """Return the datagrams of a message of any size."""
        if len(payload) <= self.fragment_size:
            return self._frames([payload], endpoints)
        cut = Cut.of(payload, self.fragment_size)
        number = self.take_numbers(1, endpoints)
        flags = frame.NUMBERED if self.is_numbered else 0
        fragments = (frame.fragment(cut, self.identity, number, position, flags=flags) for position in range(cut.parts))
        return self.seal(list(fragments))

    def marks(self) -> list[Copies]:
        """Return the marks that tell each pod how far the stream has come; empty without numbers."""
        if not self.is_numbered or not self._last:
            return []
        by_origin: dict[int, list[Endpoint]] = {}
        for endpoint, origin in self._origins.items():
            by_origin.setdefault(origin, []).append(endpoint)
        return [
            Copies(
                self.seal([frame.mark(self.identity, self._last, origin)] * _MARKS),
                tuple(endpoints),
                messages=0,
                size=0,
            )
            for origin, endpoints in by_origin.items()
        ]

    def seal(self, frames: list[bytes]) -> list[bytes]:
        """Return the frames for the wire: sealed where there is a key."""
        if self._sealer is None:
            return frames
        self.follow_keys()
        return self._sealer.seal_many(frames, time.time())

    def follow_keys(self) -> None:
        """Use the keys now in the file."""
        if self._keys is None or self._sealer is None or self._opener is None:
            return
        keyring = self._keys.keyring()
        if keyring is not self._sealer.keyring:
            self._sealer.use(keyring)
            self._opener.use(keyring)

    def open(self, datagram: bytes) -> Answer | ReplyFragment:
        """Decode an answer to a message of this sender; raise `InvalidFrame` for anything else."""
        if not datagram.startswith(MAGIC):
            raise InvalidFrame(ReceiveDrop.UNEXPECTED, "not a frame")
        found = frame.decode(datagram)
        if isinstance(found, Sealed):
            if self._opener is None:
                raise InvalidFrame(ReceiveDrop.NO_KEY, "sealed, but no key is set")
            found = frame.decode(self._opener.open(found, time.time()))
        elif self._opener is not None:
            raise InvalidFrame(ReceiveDrop.UNSEALED, "not sealed")
        if not isinstance(found, (Answer, ReplyFragment)) or found.asker != self.identity:
            raise InvalidFrame(ReceiveDrop.UNEXPECTED, "not an answer to a message of this sender")
        return found


def check_message(payload: object) -> bytes:
    """Return the payload of a framed message as bytes; raise `InvalidInput` or `MessageTooLarge`."""
    if type(payload) is bytes and len(payload) <= frame.MESSAGE_MAX:
        return payload
    return check_payload(payload, frame.MESSAGE_MAX, "a framed one has at most")
