"""Sealed frames for tests, and what becomes of them."""

from __future__ import annotations

import re

import pytest

from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import InvalidFrame, Sealed
from fanout.protocol.seal import SEALED_STREAM, Keyring, Opener, Sealer

NOW = 1_800_000_000.0
SENDER = 0x1122_3344_5566_7788
OLD, NEW, OTHER = (bytes(range(start, start + 32)) for start in (0, 100, 200))
RING = Keyring((OLD,))


def sealer(*keys: bytes, cluster: str = "", sender: int = SENDER, counter: int = 1000) -> Sealer:
    return Sealer(Keyring(keys or (OLD,)), cluster, sender, counter)


def seal_one(by: Sealer, frame: bytes, now: float) -> bytes:
    (sealed,) = by.seal_many([frame], now)
    return sealed


def message(payload: bytes = b"reload", *, sender: int = SENDER, number: int = 7) -> bytes:
    return frame.numbered_prefix(sender) + number.to_bytes(8) + payload


def beginning(sender: int, number: int = 7) -> bytes:
    """Return what a sealed message of a numbered stream begins with; counter, time and ciphertext follow."""
    return SEALED_STREAM + sender.to_bytes(8) + number.to_bytes(8)


def parsed(datagram: bytes) -> Sealed:
    made = frame.decode(datagram)
    assert isinstance(made, Sealed)
    return made


def sealed(counter: int = 1000) -> Sealed:
    return parsed(seal_one(sealer(counter=counter), message(), NOW))


def numbered(count: int, made: Sealer | None = None) -> list[Sealed]:
    return [parsed(datagram) for datagram in (made or sealer()).seal_many([message()] * count, NOW)]


def refusal(opener: Opener, what: Sealed, now: float = NOW) -> ReceiveDrop:
    with pytest.raises(InvalidFrame) as refused:
        opener.open(what, now)
    assert re.fullmatch(r"[^.\n]+", str(refused.value)), "one sentence"
    return refused.value.reason


def outcome(opener: Opener, what: Sealed, now: float = NOW) -> ReceiveDrop | None:
    """Return why a frame is refused; None where it is opened."""
    try:
        opener.open(what, now)
    except InvalidFrame as error:
        return error.reason
    return None
