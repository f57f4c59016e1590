"""What a sender's framed messages have in common: its identity, their numbers, seals, and the exchanges under way."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from itertools import repeat
from time import monotonic
from typing import TYPE_CHECKING

from fanout import options
from fanout.errors import InvalidInput, MessageTooLarge
from fanout.model import MAX_PAYLOAD, Endpoint
from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import MAGIC, Answer, Cut, InvalidFrame, ReplyFragment, Sealed
from fanout.protocol.sending.exchange import Exchange
from fanout.protocol.sending.rtt import RttEstimator
from fanout.report import Fault

if TYPE_CHECKING:
    from fanout.net.key_file import KeyFile
    from fanout.protocol.seal import Opener, Sealer

MAX_DATAGRAM = 1200
"""Bytes of payload in a framed datagram: with all headers it is below IPv6's least MTU of 1,280, or near it."""
_MOST = MAX_PAYLOAD - frame.REPLY_OVERHEAD - frame.SEALED_OVERHEAD
MARKS = 3
"""Copies of a mark: nobody says that one arrived."""
_NUMBER = struct.Struct("!Q")


def check_max_datagram(size: int | None) -> int | None:
    """Return the bytes of payload in a framed datagram, if they are given; raise `InvalidInput`."""
    if size is None:
        return None
    return options.whole_number("max_datagram", size, least=frame.FRAGMENT_MIN, most=_MOST, unit="bytes")


class Encoder:
    """Makes a sender's frames, and takes apart what comes back. Any thread may call anything.

    Numbers are given in the order in which messages leave: a thread that takes some holds `order` until they have
    left. (The tasks of an event loop hold its outbox's.)
    """

    def __init__(self, *, is_numbered: bool, max_datagram: int | None, key_file: str | None, cluster: str) -> None:
        self.fragment_size = check_max_datagram(max_datagram) or MAX_DATAGRAM
        self.is_numbered = is_numbered or key_file is not None
        self.order = threading.Lock()
        self.answers = threading.Condition()
        """Held while exchanges are told, or looked at."""
        self.refused: dict[ReceiveDrop, int] = {}
        """Datagrams that came back and were no answer that anybody waits for, by reason."""
        self._exchanges: dict[int, Exchange] = {}
        self._identity = random.SystemRandom().getrandbits(64)
        self._last = 0
        self._prefix = frame.numbered_prefix(self._identity)
        self._round_trip = RttEstimator()
        self._origins: dict[Endpoint, int] = {}
        self._origins_of: tuple[Endpoint, ...] = ()
        self._keys: KeyFile | None = None
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        path = options.key_path(key_file)
        options.cluster_label(cluster, key_file)
        if path is not None:
            from fanout.net.key_file import KeyFile
            from fanout.protocol.seal import Opener, Sealer

            self._keys = KeyFile(path)
            keyring = self._keys.keyring()
            self._sealer = Sealer(keyring, cluster, self._identity, time.time_ns())
            self._opener = Opener(keyring, cluster)

    def take_numbers(self, messages: int, endpoints: tuple[Endpoint, ...]) -> int:
        """Return the first of so many numbers in a row, for messages that leave to these pods."""
        first = self._last + 1
        self._last += messages
        if endpoints is not self._origins_of:
            self._origins_of = endpoints
            self._origins = {endpoint: self._origins.get(endpoint, first) for endpoint in endpoints}
        return first

    def frames(self, payloads: Sequence[bytes], endpoints: tuple[Endpoint, ...]) -> Sequence[bytes]:
        """Return the datagrams, one each, of messages that ask for nothing and are no larger than `fragment_size`."""
        if not self.is_numbered:
            return payloads
        number = self.take_numbers(len(payloads), endpoints)
        if self._sealer is not None:
            self._follow_keys()
            return self._sealer.seal_stream(number, payloads, time.time())
        # One pass without a loop in Python: streams are a million messages a second.
        numbers = map(_NUMBER.pack, range(number, number + len(payloads)))
        return list(map(b"".join, zip(repeat(self._prefix), numbers, payloads, strict=False)))

    def fragments(self, payload: bytes, endpoints: tuple[Endpoint, ...]) -> Sequence[bytes]:
        """Return the datagrams of a message that asks for nothing, of any size."""
        if len(payload) <= self.fragment_size:
            return self.frames([payload], endpoints)
        cut = Cut.of(payload, self.fragment_size)
        number = self.take_numbers(1, endpoints)
        flags = frame.NUMBERED if self.is_numbered else 0
        fragments = (
            frame.fragment(cut, self._identity, number, position, flags=flags) for position in range(cut.parts)
        )
        return self.seal(list(fragments))

    def marks(self) -> list[tuple[bytes, tuple[Endpoint, ...]]]:
        """Return what tells each pod how far the stream has come; nothing where it has no numbers."""
        if not self.is_numbered or not self._last:
            return []
        by_origin: dict[int, list[Endpoint]] = {}
        for endpoint, origin in self._origins.items():
            by_origin.setdefault(origin, []).append(endpoint)
        return [
            (frame.mark(self._identity, self._last, origin), tuple(endpoints))
            for origin, endpoints in by_origin.items()
        ]

    def seal(self, frames: list[bytes]) -> list[bytes]:
        """Return the frames as they go on the wire: sealed where there is a key."""
        if self._sealer is None:
            return frames
        self._follow_keys()
        return self._sealer.seal_many(frames, time.time())

    def _follow_keys(self) -> None:
        if self._keys is None or self._sealer is None or self._opener is None:
            return
        keyring = self._keys.keyring()
        if keyring is not self._sealer.keyring:
            self._sealer.keyring = self._opener.keyring = keyring

    def begin(
        self,
        payload: bytes,
        endpoints: tuple[Endpoint, ...],
        *,
        timeout: float,
        retries: int | None,
        is_query: bool,
    ) -> Exchange:
        """Return a new exchange, which gets to know of answers until `end`."""
        exchange = Exchange(
            payload,
            endpoints,
            monotonic(),
            sender=self._identity,
            number=self.take_numbers(1, endpoints),
            fragment_size=self.fragment_size,
            timeout=timeout,
            retries=retries,
            is_query=is_query,
            is_numbered=self.is_numbered,
            round_trip=self._round_trip,
            jitter=random.random,
        )
        with self.answers:
            self._exchanges[exchange.number] = exchange
        return exchange

    def end(self, exchange: Exchange) -> bool:
        """Let it be told no more; return whether it was until now."""
        with self.answers:
            return self._exchanges.pop(exchange.number, None) is not None

    def came(self, datagrams: Iterable[tuple[bytes, Endpoint]], heard: Iterable[Fault], now: float) -> list[Exchange]:
        """Tell the exchanges what came back; return those that have news. Call it with `answers` held."""
        told: dict[int, Exchange] = {}
        if self._opener is not None:
            self._follow_keys()
        for datagram, source in datagrams:
            try:
                answer = self._open(datagram)
            except InvalidFrame as refusal:
                self.refused[refusal.reason] = self.refused.get(refusal.reason, 0) + 1
                continue
            exchange = self._exchanges.get(answer.number)
            if exchange is None or not exchange.take(answer, source, now):
                self.refused[ReceiveDrop.UNEXPECTED] = self.refused.get(ReceiveDrop.UNEXPECTED, 0) + 1
            else:
                told[exchange.number] = exchange
        for fault in heard:
            for exchange in self._exchanges.values():
                exchange.refused(fault.endpoint, fault.errno, now)
                told[exchange.number] = exchange
        return list(told.values())

    def _open(self, datagram: bytes) -> Answer | ReplyFragment:
        if not datagram.startswith(MAGIC):
            raise InvalidFrame(ReceiveDrop.UNEXPECTED, "no frame")
        found = frame.decode(datagram)
        if isinstance(found, Sealed):
            if self._opener is None:
                raise InvalidFrame(ReceiveDrop.NO_KEY, "sealed, and no key is set")
            found = frame.decode(self._opener.open(found, time.time()))
        elif self._opener is not None:
            raise InvalidFrame(ReceiveDrop.UNSEALED, "not sealed")
        if not isinstance(found, (Answer, ReplyFragment)) or found.asker != self._identity:
            raise InvalidFrame(ReceiveDrop.UNEXPECTED, "no answer to a question of this sender")
        return found


def check_message(payload: object) -> bytes:
    """Return the payload of a framed message as bytes; raise `InvalidInput` or `MessageTooLarge`."""
    if type(payload) is bytes and len(payload) <= frame.MESSAGE_MAX:
        return payload
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        raise InvalidInput(f"a payload is bytes, not {type(payload).__name__}: encode it first")
    data = bytes(payload)
    if len(data) > frame.MESSAGE_MAX:
        raise MessageTooLarge(
            f"the message has {len(data):,} bytes; a framed one has at most {frame.MESSAGE_MAX:,}: send it in parts"
        )
    return data


def check_patience(timeout: object, retries: object, on_receipt: object) -> None:
    """Raise `InvalidInput` where the time or the number of tries is none, or what is to be called is no function."""
    if on_receipt is not None and not callable(on_receipt):
        raise InvalidInput(f"on_receipt must be callable; got {on_receipt!r}")
    options.positive_number("timeout", timeout, most=86_400, unit="seconds")
    if retries is not None:
        options.whole_number("retries", retries, least=0)
