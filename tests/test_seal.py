"""Seals: what is opened is what was sealed, once; nothing else is, and nobody without a key costs memory."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import KeyUnavailable
from fanout.wire import frame
from fanout.wire.frame import Refused, Sealed
from fanout.wire.reasons import ReceiveDrop
from fanout.wire.seal import Keyring, Opener, Sealer, subkey

NOW = 1_800_000_000.0
SENDER = 0x1122_3344_5566_7788
OLD, NEW, OTHER = (bytes(range(start, start + 32)) for start in (0, 100, 200))
RING = Keyring((OLD,))
REPLAYS = 1_000_000


def sealer(*keys: bytes, cluster: str = "", sender: int = SENDER, counter: int = 1000) -> Sealer:
    return Sealer(Keyring(keys or (OLD,)), cluster, sender, counter)


def message(payload: bytes = b"reload", *, sender: int = SENDER, number: int = 7) -> bytes:
    return frame.numbered_prefix(sender) + number.to_bytes(8) + payload


def parsed(datagram: bytes) -> Sealed:
    made = frame.decode(datagram)
    assert isinstance(made, Sealed)
    return made


def sealed(counter: int = 1000) -> Sealed:
    return parsed(sealer(counter=counter).seal(message(), NOW))


def numbered(count: int, made: Sealer | None = None) -> list[Sealed]:
    return [parsed(datagram) for datagram in (made or sealer()).seal_many([message()] * count, NOW)]


def refusal(opener: Opener, what: Sealed, now: float = NOW) -> ReceiveDrop:
    with pytest.raises(Refused) as refused:
        opener.open(what, now)
    assert re.fullmatch(r"[^.\n]+", str(refused.value)), "one sentence"
    return refused.value.reason


def outcome(opener: Opener, what: Sealed, now: float = NOW) -> ReceiveDrop | None:
    """Return why a frame is refused; None where it is opened."""
    try:
        opener.open(what, now)
    except Refused as error:
        return error.reason
    return None


# What a seal is


@given(st.binary(max_size=3000), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 2), st.text(max_size=20))
def test_what_is_opened_is_what_was_sealed(payload: bytes, sender: int, counter: int, cluster: str) -> None:
    inner = message(payload, sender=sender)
    made = Sealer(RING, cluster, sender, counter).seal(inner, NOW)
    assert len(made) == len(inner) + frame.SEALED_OVERHEAD
    what = parsed(made)
    assert what[:3] == (sender, counter, int(NOW))
    assert Opener(RING, cluster).open(what, NOW) == inner
    assert len(payload) < 8 or payload not in made


def test_every_kind_of_frame_is_sealed_whole() -> None:
    cut = frame.Cut.of(b"x" * 700, 300)
    frames = [
        message(b""),
        frame.mark(SENDER, 9, 2),
        frame.fragment(cut, SENDER, 8, 2, flags=frame.ASK, pad=400),
        frame.answer(SENDER, 3, 99, 1, frame.Status.FAILED, detail=b"why"),
        frame.reply(cut, SENDER, 3, 99, 1, 0),
        frame.pull(SENDER, 3, [1, 2]),
    ]
    opener = Opener(RING, "")
    assert [opener.open(parsed(each), NOW) for each in sealer().seal_many(frames, NOW)] == frames


def test_a_decoder_of_its_own_opens_it_by_the_specification() -> None:
    """Nothing of `fanout` is used but the key: what another language would do."""
    datagram = sealer(cluster="größe", counter=2**60).seal(message(b"payload"), NOW)
    header, time, text = datagram[:24], datagram[24:28], datagram[28:]
    assert header == b"\xfffout\xfe\x01\x07" + SENDER.to_bytes(8) + (2**60).to_bytes(8)
    assert int.from_bytes(time) == int(NOW)
    derived = HKDF(hashes.SHA256(), 32, salt=header[8:16], info=b"fanout sealed frame 1").derive(OLD)
    assert derived == subkey(OLD, SENDER)
    associated = header + time + "größe".encode()
    inner = AESGCM(derived).decrypt(bytes(4) + header[16:24], text, associated)
    assert inner == b"\x01" + (7).to_bytes(8) + b"payload"


def test_a_vector() -> None:
    """Pinned: whatever changes it is another version of the frame."""
    datagram = sealer(cluster="prod", counter=1).seal(message(), NOW)
    assert datagram.hex() == (
        "ff666f7574fe010711223344556677880000000000000001"
        "6b49d200"
        "0d956545d796e51993907b55a92dbe609c65a33df3ecfb79b427fa3ceeb598"
    )


def test_counters_are_never_used_twice_whichever_thread_seals() -> None:
    made = sealer(counter=5)
    with ThreadPoolExecutor(4) as threads:
        runs = threads.map(lambda _: [made.seal(message(), NOW), *made.seal_many([message()] * 50, NOW)], range(40))
        counters = [parsed(datagram).counter for run in runs for datagram in run]
    assert sorted(counters) == list(range(5, 5 + 40 * 51))


# What is refused


def test_every_flipped_bit_is_refused() -> None:
    """Of the magic, version and kind by `decode`; all others by the opener, which then still opens the original."""
    inner = message(os.urandom(1200))
    datagram = sealer().seal(inner, NOW)
    opener = Opener(RING, "")
    flips = 0
    for bit in range(len(datagram) * 8):
        flipped = bytearray(datagram)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        try:
            what = frame.decode(bytes(flipped))
        except Refused:
            assert bit < 64
            flips += 1
            continue
        if not isinstance(what, Sealed):  # the kind says otherwise; nothing unsealed is taken where a key is set
            assert 56 <= bit < 64
            flips += 1
            continue
        assert refusal(opener, what) in {ReceiveDrop.WRONG_KEY, ReceiveDrop.STALE}
        flips += 1
    assert flips == len(datagram) * 8 >= 9600
    assert len(opener) == 0
    assert opener.open(parsed(datagram), NOW) == inner


def test_every_flipped_bit_is_refused_of_a_sender_who_is_known() -> None:
    made = sealer()
    first, second = made.seal_many([message(), message(os.urandom(1200))], NOW)
    opener = Opener(RING, "")
    opener.open(parsed(first), NOW)
    for bit in range(64, len(second) * 8):
        flipped = bytearray(second)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        reason = refusal(opener, parsed(bytes(flipped)))
        assert reason is not ReceiveDrop.MALFORMED
    assert len(opener) == 1
    opener.open(parsed(second), NOW)


def test_every_truncation_is_refused() -> None:
    datagram = sealer().seal(message(b"x" * 100), NOW)
    opener = Opener(RING, "")
    for size in range(len(datagram)):
        with pytest.raises(Refused):
            opener.open(parsed(datagram[:size]), NOW)
    assert refusal(opener, parsed(datagram + b"\0")) is ReceiveDrop.WRONG_KEY


def test_of_a_million_replays_none_is_opened() -> None:
    made = sealer()
    frames = numbered(4096, made)
    opener = Opener(RING, "")
    for what in frames:
        opener.open(what, NOW)
    opened = sum(outcome(opener, what) is None for _ in range(-(-REPLAYS // len(frames))) for what in frames)
    assert opened == 0


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
    forged = parsed(frame.header(frame.Kind.SEALED, SENDER + 1, what.counter) + what.associated[24:] + what.ciphertext)
    assert refusal(Opener(RING, ""), forged) is ReceiveDrop.WRONG_KEY


def test_what_is_sealed_around_nothing_or_twice_is_refused() -> None:
    made = sealer()
    twice = made.seal(made.seal(message(), NOW), NOW)
    assert refusal(Opener(RING, ""), parsed(twice)) is ReceiveDrop.MALFORMED
    for size in range(9):
        associated = what.associated if (what := sealed(counter=size)) else b""
        text = AESGCM(subkey(OLD, SENDER)).encrypt(bytes(4) + size.to_bytes(8), bytes(size), associated)
        assert refusal(Opener(RING, ""), what._replace(ciphertext=text)) is ReceiveDrop.MALFORMED


@given(st.binary(min_size=25, max_size=80), st.integers(0, 3), st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_no_garbage_is_opened_or_remembered(text: bytes, sender: int, seconds: int, counter: int) -> None:
    opener = Opener(Keyring((OLD, NEW)), "")
    datagram = frame.header(frame.Kind.SEALED, sender, counter) + seconds.to_bytes(4) + text
    refusal(opener, parsed(datagram), float(seconds))
    assert len(opener) == 0


# Time


@pytest.mark.parametrize(("apart", "taken"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)])
def test_a_sender_not_seen_before_must_be_fresh(apart: int, taken: bool) -> None:
    opener = Opener(RING, "")
    if taken:
        opener.open(sealed(), NOW + apart)
    else:
        assert refusal(opener, sealed(), NOW + apart) is ReceiveDrop.STALE
        assert len(opener) == 0


def test_clocks_an_hour_apart_are_refused_and_a_known_sender_may_drift() -> None:
    made, opener = sealer(), Opener(RING, "")
    assert refusal(opener, parsed(made.seal(message(), NOW)), NOW + 3600) is ReceiveDrop.STALE
    assert refusal(opener, parsed(made.seal(message(), NOW)), NOW - 3600) is ReceiveDrop.STALE
    assert refusal(opener, parsed(made.seal(message(), NOW)), float("nan")) is ReceiveDrop.STALE
    opener.open(parsed(made.seal(message(), NOW)), NOW)
    opener.open(parsed(made.seal(message(), NOW)), NOW + 3600)
    opener.open(parsed(made.seal(message(), NOW + 7200)), NOW)
    opener.open(parsed(made.seal(message(), NOW - 300)), NOW)
    assert refusal(opener, parsed(made.seal(message(), NOW - 301))) is ReceiveDrop.STALE


def test_after_a_restart_only_what_is_fresh_can_be_replayed_and_only_once() -> None:
    """What was recorded before the sender became known to this opener has to be fresh, too."""
    made = sealer()
    old, fresh = parsed(made.seal(message(), NOW - 301)), parsed(made.seal(message(), NOW - 299))
    opener = Opener(RING, "")
    opener.open(parsed(made.seal(message(), NOW)), NOW)
    assert refusal(opener, old) is ReceiveDrop.STALE
    opener.open(fresh, NOW)
    assert refusal(opener, fresh) is ReceiveDrop.REPLAYED


def test_a_late_frame_of_a_known_sender_is_opened_however_late() -> None:
    made, opener = sealer(), Opener(RING, "")
    first, late, last = (parsed(each) for each in made.seal_many([message()] * 3, NOW))
    opener.open(first, NOW)
    opener.open(last, NOW)
    opener.open(late, NOW + 1000)


# The table of senders


def one_of(sender: int, now: float) -> Sealed:
    return parsed(sealer(sender=sender).seal(message(sender=sender), now))


def test_the_table_is_bounded_and_forgets_only_what_is_no_longer_fresh() -> None:
    opener = Opener(RING, "", senders=3)
    taken = [one_of(sender, NOW + sender) for sender in range(3)]
    for what in taken:
        opener.open(what, NOW)
    assert refusal(opener, one_of(9, NOW)) is ReceiveDrop.SENDERS_FULL
    assert refusal(opener, one_of(9, NOW + 300), NOW + 300) is ReceiveDrop.SENDERS_FULL
    opener.open(one_of(9, NOW + 301), NOW + 301)
    assert len(opener) == 3
    assert refusal(opener, taken[0], NOW + 301) is ReceiveDrop.STALE, "forgotten, and refused for its time"
    assert refusal(opener, taken[1], NOW + 301) is ReceiveDrop.REPLAYED


def test_a_sender_is_remembered_as_long_as_its_newest_frame_is_fresh() -> None:
    opener = Opener(RING, "", senders=2)
    busy, quiet = sealer(sender=1), sealer(sender=2)
    first = parsed(busy.seal(message(), NOW))
    opener.open(first, NOW)
    opener.open(parsed(quiet.seal(message(), NOW)), NOW)
    opener.open(parsed(busy.seal(message(), NOW + 200)), NOW + 200)
    opener.open(one_of(3, NOW + 400), NOW + 400)
    assert refusal(opener, first, NOW + 400) is ReceiveDrop.REPLAYED
    opener.open(one_of(4, NOW + 1000), NOW + 1000)
    assert len(opener) == 1


def test_who_was_forgotten_and_comes_again_with_a_clock_set_back_brings_no_replay() -> None:
    """Its counters go on, its times do not: what was opened before has a higher counter than what comes now."""
    opener = Opener(RING, "", senders=1)
    recorded = parsed(sealer(sender=1, counter=9).seal(message(), NOW))
    opener.open(recorded, NOW)
    opener.open(one_of(2, NOW + 301), NOW + 301)
    opener.open(parsed(sealer(sender=1, counter=8).seal(message(), NOW + 602)), NOW + 602)
    assert refusal(opener, recorded, NOW + 602) is ReceiveDrop.STALE


def test_who_came_with_an_old_time_is_the_first_to_be_forgotten() -> None:
    opener = Opener(RING, "", senders=2)
    for sender, now in ((1, 0.0), (2, 0.0), (3, 301.0)):
        opener.open(one_of(sender, NOW + now), NOW + now)
    opener.open(one_of(4, NOW + 301 - 299), NOW + 301)
    assert refusal(opener, one_of(5, NOW + 301), NOW + 301) is ReceiveDrop.SENDERS_FULL
    opener.open(one_of(5, NOW + 303), NOW + 303)
    assert len(opener) == 2


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 40), st.integers(0, 2), st.integers(0, 60)), min_size=1, max_size=80
    )
)
def test_no_schedule_of_recordings_is_opened_twice(plan: list[tuple[int, int, int, int]]) -> None:
    """Any frames of any senders, sealed at any time and given again at any later time, in a table that is too small."""
    opener = Opener(RING, "", freshness=30.0, senders=3, window=2)
    recorded: dict[tuple[int, int], Sealed] = {}
    opened: set[tuple[int, int]] = set()
    now = 1000.0
    for sender, age, counter, wait in plan:
        now += wait
        made = Sealer(RING, "", sender, counter).seal(message(sender=sender), now - age)
        what = recorded.setdefault((sender, counter), parsed(made))
        if outcome(opener, what, now) is None:
            assert (sender, counter) not in opened
            opened.add((sender, counter))
        assert len(opener) <= 3


# Rotation


def test_keys_rotate_and_no_replay_window_is_lost() -> None:
    made, opener = sealer(OLD), Opener(Keyring((OLD,)), "")
    first = parsed(made.seal(message(), NOW))
    opener.open(first, NOW)
    opener.keyring = Keyring((OLD, NEW))
    opener.open(parsed(made.seal(message(), NOW)), NOW)
    made.keyring = Keyring((NEW, OLD))
    second = parsed(made.seal(message(), NOW))
    opener.open(second, NOW)
    opener.keyring = Keyring((NEW,))
    opener.open(parsed(made.seal(message(), NOW)), NOW)
    assert refusal(opener, first) is ReceiveDrop.REPLAYED
    assert refusal(opener, second) is ReceiveDrop.REPLAYED
    assert len(opener) == 1
    assert made.keyring.keys[0] == NEW
    assert opener.keyring.keys == (NEW,)


def test_a_key_that_is_gone_opens_nothing_more_until_it_is_back() -> None:
    made, opener = sealer(OLD), Opener(Keyring((OLD,)), "")
    opener.open(parsed(made.seal(message(), NOW)), NOW)
    opener.keyring = Keyring((NEW,))
    late = parsed(made.seal(message(), NOW))
    assert refusal(opener, late) is ReceiveDrop.WRONG_KEY
    opener.keyring = Keyring((NEW, OLD))
    opener.open(late, NOW)
    opener.open(parsed(made.seal(message(), NOW)), NOW)


def test_two_senders_of_one_group_may_be_at_different_keys() -> None:
    opener = Opener(Keyring((OLD, NEW)), "")
    for sender, key in ((1, OLD), (2, NEW)):
        made = sealer(key, sender=sender)
        for what in numbered(3, made):
            opener.open(what, NOW)
    assert len(opener) == 2


@pytest.mark.parametrize("make", [lambda: sealer(), lambda: Opener(RING, "")])
def test_without_the_package_the_error_says_what_to_install(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    assert callable(make)
    with pytest.raises(KeyUnavailable, match=r"sealed messages need the cryptography package: pip install 'fanout\["):
        make()
