"""Seals: what is opened is what was sealed, once; nothing else is, and nobody without a key costs memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import KeyUnavailable
from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import InvalidFrame, Sealed
from fanout.protocol.seal import Keyring, Opener, Sealer, subkey
from tests.support.sealed_frames import (
    NEW,
    NOW,
    OLD,
    OTHER,
    RING,
    SENDER,
    beginning,
    message,
    numbered,
    outcome,
    parsed,
    refusal,
    seal_one,
    sealed,
    sealer,
)

# What a seal is


@given(st.binary(max_size=3000), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 2), st.text(max_size=20))
def test_what_is_opened_is_what_was_sealed(payload: bytes, sender: int, counter: int, cluster: str) -> None:
    inner = message(payload, sender=sender)
    made = seal_one(Sealer(RING, cluster, sender, counter), inner, NOW)
    assert len(made) == len(inner) + frame.SEALED_OVERHEAD
    what = parsed(made)
    assert (what.sender, what.number, what.counter, what.time) == (sender, 7, counter, int(NOW))
    assert Opener(RING, cluster).open(what, NOW) == inner
    assert len(payload) < 8 or payload not in made


def test_every_kind_of_frame_is_sealed_whole() -> None:
    cut = frame.Cut.of(b"x" * 700, 300)
    frames = [
        message(b""),
        frame.mark(SENDER, 9, 2),
        frame.fragment(cut, SENDER, 8, 2, flags=frame.ASK, pad=400),
        frame.answer(SENDER, 3, 99, 1, frame.AnswerStatus.FAILED, detail=b"why"),
        frame.reply(cut, SENDER, 3, 99, 1, 0),
        frame.pull(SENDER, 3, [1, 2]),
    ]
    opener = Opener(RING, "prod")
    made = sealer(cluster="prod").seal_many(frames, NOW)
    assert [opener.open(parsed(each), NOW) for each in made] == frames


def test_a_decoder_of_its_own_opens_it_by_the_specification() -> None:
    """Nothing of `fanout` is used but the key: what another language would do."""
    datagram = seal_one(sealer(cluster="größe", counter=2**60), message(b"payload"), NOW)
    header, counter, time, text = datagram[:24], datagram[24:32], datagram[32:36], datagram[36:]
    assert header == b"\xfffout\xfe\x01\x81" + SENDER.to_bytes(8) + (7).to_bytes(8)
    assert (int.from_bytes(counter), int.from_bytes(time)) == (2**60, int(NOW))
    derived = HKDF(hashes.SHA256(), 32, salt=header[8:16], info=b"fanout sealed frame 1").derive(OLD)
    assert derived == subkey(OLD, SENDER)
    associated = header + counter + time + "größe".encode()
    assert AESGCM(derived).decrypt(bytes(4) + counter, text, associated) == b"payload"


def test_a_vector() -> None:
    """Pinned: whatever changes it is another version of the frame."""
    datagram = seal_one(sealer(cluster="prod", counter=1), message(), NOW)
    assert datagram.hex() == (
        "ff666f7574fe018111223344556677880000000000000007"
        "00000000000000016b49d200"
        "7ef0092ab6f2e1a0f70ad46205bf79cb56ecb52cafcc"
    )


# What is refused


_TOP_OF_NUMBER = 8 * frame.NUMBER_AT
"""The bit that no number has."""


def test_every_flipped_bit_is_refused() -> None:
    """Of the magic, version and kind by `decode`; all others by the opener, which then still opens the original."""
    inner = message(os.urandom(150))
    datagram = seal_one(sealer(), inner, NOW)
    opener = Opener(RING, "")
    flips = 0
    for bit in range(len(datagram) * 8):
        flipped = bytearray(datagram)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        try:
            what = frame.decode(bytes(flipped))
        except InvalidFrame:
            assert bit < 64 or bit == _TOP_OF_NUMBER
            flips += 1
            continue
        if not isinstance(what, Sealed):  # the kind says otherwise; nothing unsealed is taken where a key is set
            assert 56 <= bit < 64
            flips += 1
            continue
        assert refusal(opener, what) in {ReceiveDrop.WRONG_KEY, ReceiveDrop.STALE}
        flips += 1
    assert flips == len(datagram) * 8 >= 1200
    assert len(opener) == 0
    assert opener.open(parsed(datagram), NOW) == inner


def test_every_flipped_bit_is_refused_of_a_sender_who_is_known() -> None:
    made = sealer()
    first, second = made.seal_many([message(), message(os.urandom(150))], NOW)
    opener = Opener(RING, "")
    opener.open(parsed(first), NOW)
    for bit in set(range(64, len(second) * 8)) - {_TOP_OF_NUMBER}:
        flipped = bytearray(second)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        reason = refusal(opener, parsed(bytes(flipped)))
        assert reason is not ReceiveDrop.MALFORMED
    assert len(opener) == 1
    opener.open(parsed(second), NOW)


def test_every_truncation_is_refused() -> None:
    datagram = seal_one(sealer(), message(b"x" * 100), NOW)
    opener = Opener(RING, "")
    for size in range(len(datagram)):
        with pytest.raises(InvalidFrame):
            opener.open(parsed(datagram[:size]), NOW)
    assert refusal(opener, parsed(datagram + b"\0")) is ReceiveDrop.WRONG_KEY


def test_of_all_that_is_remembered_no_replay_is_opened_however_often_it_comes() -> None:
    frames = numbered(4096)  # as many as are remembered
    opener = Opener(RING, "")
    for what in frames:
        opener.open(what, NOW)
    for _ in range(3):
        assert {outcome(opener, what) for what in frames} == {ReceiveDrop.REPLAYED}


@given(st.lists(st.integers(0, 90), max_size=300), st.sampled_from([1, 16, 40]))
def test_any_order_of_arrival_opens_each_frame_at_most_once(order: list[int], window: int) -> None:
    frames = numbered(91)
    opener = Opener(RING, "", window=window)
    opened: set[int] = set()
    highest = -1
    for index in order:
        reason = outcome(opener, frames[index])
        if reason is None:
            assert index not in opened
            opened.add(index)
        elif reason is ReceiveDrop.REPLAYED:
            assert index in opened
        else:
            assert reason is ReceiveDrop.TOO_OLD
            assert index < highest + 1 - window
        highest = max(highest, index)
    assert {index for index in order if index >= max(order, default=0) + 1 - window} <= opened


def test_another_key_another_label_and_another_sender_are_refused() -> None:
    what = sealed()
    assert refusal(Opener(Keyring((NEW, OTHER)), ""), what) is ReceiveDrop.WRONG_KEY
    assert refusal(Opener(RING, "prod"), what) is ReceiveDrop.WRONG_KEY
    forged = parsed(beginning(SENDER + 1) + what.associated[24:] + what.ciphertext)
    assert refusal(Opener(RING, ""), forged) is ReceiveDrop.WRONG_KEY


@given(st.binary(min_size=16, max_size=80), st.integers(0, 3), st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_no_garbage_is_opened_or_remembered(text: bytes, sender: int, seconds: int, counter: int) -> None:
    opener = Opener(Keyring((OLD, NEW)), "")
    datagram = beginning(sender) + counter.to_bytes(8) + seconds.to_bytes(4) + text
    refusal(opener, parsed(datagram), float(seconds))
    assert len(opener) == 0


def test_a_run_is_opened_at_once_and_only_once() -> None:
    made, opener = sealer(cluster="prod"), Opener(RING, "prod")
    first, *rest = made.seal_many([message(bytes(20)) for _ in range(40)], NOW)
    run = b"".join(rest)
    assert opener.open_run(run, len(first), len(rest)) is None, "nobody knows the sender yet"
    assert opener.open(parsed(first), NOW) == message(bytes(20))
    opened = opener.open_run(run, len(first), len(rest))
    assert opened is not None
    assert (opened.sender, opened.is_stream) == (SENDER, True)
    assert opened.frames() == [message(bytes(20))] * 39
    assert opener.open_run(run, len(first), len(rest)) is None
    assert {refusal(opener, parsed(each), NOW) for each in rest} == {ReceiveDrop.REPLAYED}
    # The last may be shorter, and numbers may be missing before.
    seal_one(made, message(), NOW)
    *whole, short = made.seal_many([message(bytes(20)), message(bytes(20)), message(b"")], NOW)
    opened = opener.open_run(b"".join([*whole, short]), len(whole[0]), 3)
    assert opened is not None
    assert opened.bodies == [bytes(20), bytes(20), b""]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda run: [run[1], run[0], *run[2:]],
        lambda run: [run[0], run[0], *run[2:]],
        lambda run: [*run[:3], run[3][:-1] + bytes((run[3][-1] ^ 1,)), *run[4:]],
        lambda run: [*run[:-1], run[-1][:51]],
        lambda run: [*run[:-1], run[-1][:20]],
        lambda run: [*run[:3], b"x" * len(run[0]), *run[4:]],
        lambda run: [*run[:3], seal_one(sealer(sender=5), message(bytes(20)), NOW), *run[4:]],
    ],
)
def test_a_spoilt_run_opens_nothing_and_each_is_judged_alone(spoil: Callable[[list[bytes]], list[bytes]]) -> None:
    made, opener = sealer(), Opener(RING, "")
    first, *rest = made.seal_many([message(bytes(20)) for _ in range(10)], NOW)
    opener.open(parsed(first), NOW)
    spoilt = spoil(rest)
    assert opener.open_run(b"".join(spoilt), len(first), len(spoilt)) is None
    assert [opener.open(parsed(each), NOW) for each in rest] == [message(bytes(20))] * 9


@pytest.mark.parametrize("make", [lambda: sealer(), lambda: Opener(RING, "")])
def test_without_the_package_the_error_says_what_to_install(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    assert callable(make)
    with pytest.raises(
        KeyUnavailable, match=r"^sealed messages need the cryptography package: pip install cryptography$"
    ):
        make()
