"""What sealing, opening and refusing a frame cost, beside what encrypting alone costs."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.rows import Row
from fanout.protocol import frame
from fanout.protocol.seal import Keyring, Opener, Sealer

P = ParamSpec("P")
T = TypeVar("T")
SIZE = 1200
RUN = 44
"""Frames of that size which the kernel hands over at once, at most."""
REPEATS = 2000
_CLUSTER = "bench"


def measure() -> list[Row]:
    """Seal and open the same stream in turn with the bare cipher; medians of a frame."""
    ring = Keyring((os.urandom(32),))
    sealer, opener, cipher = Sealer(ring, _CLUSTER, 1, 1), Opener(ring, _CLUSTER), AESGCM(ring.keys[0])
    payloads = [os.urandom(SIZE) for _ in range(RUN)]
    frames = [frame.numbered_prefix(1) + number.to_bytes(8) + payload for number, payload in enumerate(payloads, 1)]
    for each, one in zip(frames, sealer.seal_many(frames, 0.0), strict=True):
        if opener.open(_parsed(one), 0.0) != each:
            raise SystemExit("what was opened is not what was sealed")
    times: dict[str, list[float]] = {name: [] for name in ("encrypt", "seal", "decrypt", "open", "forged")}
    for _ in range(REPEATS):
        plain = _timed(times["encrypt"], _each, cipher.encrypt, frames)
        sealed = _timed(times["seal"], sealer.seal_stream, 1, payloads, 0.0)
        _timed(times["decrypt"], _each, cipher.decrypt, plain)
        run = b"".join(sealed)
        if _timed(times["open"], opener.open_run, run, len(sealed[0]), RUN) is None:
            raise SystemExit("a stream was not opened")
        forged = [_parsed(each[:-1] + bytes((each[-1] ^ 1,))) for each in sealed]
        _timed(times["forged"], _refused, Opener(ring, _CLUSTER), forged)
    cost = {name: statistics.median(values) / RUN * 1e6 for name, values in times.items()}
    what = f"a frame of {SIZE} bytes"
    return [
        Row(f"{what}: seal", f"{cost['seal']:.2f} µs", f"AES-256-GCM: {cost['encrypt']:.2f} µs",
            cost["seal"] / cost["encrypt"]),
        Row(f"{what}: open", f"{cost['open']:.2f} µs", f"AES-256-GCM: {cost['decrypt']:.2f} µs",
            cost["open"] / cost["decrypt"]),
        Row(f"{what}: refuse a forged one of an unknown sender", f"{cost['forged']:.2f} µs",
            f"open: {cost['open']:.2f} µs", cost["forged"] / cost["open"]),
    ]  # fmt: skip


def _each(crypt: Callable[[bytes, bytes, bytes], bytes], texts: list[bytes]) -> list[bytes]:
    nonce, associated = bytes(12), bytes(28 + len(_CLUSTER))
    return [crypt(nonce, text, associated) for text in texts]


def _parsed(datagram: bytes) -> frame.Sealed:
    found = frame.decode(datagram)
    assert isinstance(found, frame.Sealed)
    return found


def _refused(opener: Opener, forged: list[frame.Sealed]) -> None:
    for each in forged:
        with contextlib.suppress(frame.InvalidFrame):
            opener.open(each, 0.0)
            raise SystemExit("a forged frame was opened")


def _timed(into: list[float], work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    started = time.perf_counter()
    done = work(*arguments, **named)
    into.append(time.perf_counter() - started)
    return done
