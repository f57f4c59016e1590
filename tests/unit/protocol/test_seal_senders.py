"""Whom an opener believes: clocks, the table of senders, and keys that rotate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import Sealed
from fanout.protocol.seal import Keyring, Opener, Sealer
from tests.support.sealed_frames import (
    NEW,
    NOW,
    OLD,
    RING,
    message,
    numbered,
    outcome,
    parsed,
    refusal,
    seal_one,
    sealed,
    sealer,
)

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
    assert refusal(opener, parsed(seal_one(made, message(), NOW)), NOW + 3600) is ReceiveDrop.STALE
    assert refusal(opener, parsed(seal_one(made, message(), NOW)), NOW - 3600) is ReceiveDrop.STALE
    assert refusal(opener, parsed(seal_one(made, message(), NOW)), float("nan")) is ReceiveDrop.STALE
    opener.open(parsed(seal_one(made, message(), NOW)), NOW)
    opener.open(parsed(seal_one(made, message(), NOW)), NOW + 3600)
    opener.open(parsed(seal_one(made, message(), NOW + 7200)), NOW)
    opener.open(parsed(seal_one(made, message(), NOW - 300)), NOW)
    assert refusal(opener, parsed(seal_one(made, message(), NOW - 301))) is ReceiveDrop.STALE


def test_after_a_restart_only_what_is_fresh_can_be_replayed_and_only_once() -> None:
    """What was recorded before the sender became known to this opener has to be fresh, too."""
    made = sealer()
    old, fresh, aged = (parsed(seal_one(made, message(), NOW - age)) for age in (301, 299, 298))
    opener = Opener(RING, "")
    opener.open(parsed(seal_one(made, message(), NOW)), NOW)
    assert refusal(opener, old) is ReceiveDrop.STALE
    opener.open(fresh, NOW)
    assert refusal(opener, fresh) is ReceiveDrop.REPLAYED
    assert refusal(opener, aged, NOW + 3) is ReceiveDrop.STALE


def test_a_late_frame_of_a_known_sender_is_opened_however_late() -> None:
    made, opener = sealer(), Opener(RING, "")
    first, late, last = (parsed(each) for each in made.seal_many([message()] * 3, NOW))
    opener.open(first, NOW)
    opener.open(last, NOW)
    opener.open(late, NOW + 1000)


# The table of senders


def one_of(sender: int, now: float) -> Sealed:
    return parsed(seal_one(sealer(sender=sender), message(sender=sender), now))


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


@pytest.mark.parametrize("at_once", [True, False])
def test_a_sender_is_remembered_as_long_as_its_newest_frame_is_fresh(at_once: bool) -> None:
    opener = Opener(RING, "", senders=2)
    busy, quiet = sealer(sender=1), sealer(sender=2)
    first = parsed(seal_one(busy, message(), NOW))
    opener.open(first, NOW)
    opener.open(parsed(seal_one(quiet, message(), NOW)), NOW)
    later = seal_one(busy, message(), NOW + 200)
    if at_once:
        assert opener.open_run(later, len(later), 1) is not None
    else:
        opener.open(parsed(later), NOW + 200)
    opener.open(one_of(3, NOW + 400), NOW + 400)
    assert refusal(opener, first, NOW + 400) is ReceiveDrop.REPLAYED
    opener.open(one_of(4, NOW + 1000), NOW + 1000)
    assert len(opener) == 1


def test_who_was_forgotten_and_comes_again_with_a_clock_set_back_brings_no_replay() -> None:
    """Its counters go on, its times do not: what was opened before has a higher counter than what comes now."""
    opener = Opener(RING, "", senders=1)
    recorded = parsed(seal_one(sealer(sender=1, counter=9), message(), NOW))
    opener.open(recorded, NOW)
    opener.open(one_of(2, NOW + 301), NOW + 301)
    opener.open(parsed(seal_one(sealer(sender=1, counter=8), message(), NOW + 602)), NOW + 602)
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
        made = seal_one(Sealer(RING, "", sender, counter), message(sender=sender), now - age)
        what = recorded.setdefault((sender, counter), parsed(made))
        if outcome(opener, what, now) is None:
            assert (sender, counter) not in opened
            opened.add((sender, counter))
        assert len(opener) <= 3


# Rotation


def test_keys_rotate_and_no_replay_window_is_lost() -> None:
    made, opener = sealer(OLD), Opener(Keyring((OLD,)), "")
    first = parsed(seal_one(made, message(), NOW))
    opener.open(first, NOW)
    opener.use(Keyring((OLD, NEW)))
    opener.open(parsed(seal_one(made, message(), NOW)), NOW)
    made.use(Keyring((NEW, OLD)))
    second = parsed(seal_one(made, message(), NOW))
    opener.open(second, NOW)
    opener.use(Keyring((NEW,)))
    opener.open(parsed(seal_one(made, message(), NOW)), NOW)
    assert refusal(opener, first) is ReceiveDrop.REPLAYED
    assert refusal(opener, second) is ReceiveDrop.REPLAYED
    assert len(opener) == 1
    assert made.keyring.keys[0] == NEW
    assert opener.keyring.keys == (NEW,)


def test_a_key_that_is_gone_opens_nothing_more_until_it_is_back() -> None:
    made, opener = sealer(OLD), Opener(Keyring((OLD,)), "")
    opener.open(parsed(seal_one(made, message(), NOW)), NOW)
    opener.use(Keyring((NEW,)))
    late = parsed(seal_one(made, message(), NOW))
    assert refusal(opener, late) is ReceiveDrop.WRONG_KEY
    opener.use(Keyring((NEW, OLD)))
    opener.open(late, NOW)
    opener.open(parsed(seal_one(made, message(), NOW)), NOW)


def test_two_senders_of_one_group_may_be_at_different_keys() -> None:
    opener = Opener(Keyring((OLD, NEW)), "")
    for sender, key in ((1, OLD), (2, NEW)):
        made = sealer(key, sender=sender)
        for what in numbered(3, made):
            opener.open(what, NOW)
    assert len(opener) == 2


@given(st.tuples(*[st.permutations(range(4))] * 3))
def test_a_rotation_by_the_book_loses_nothing(orders: tuple[list[int], ...]) -> None:
    """All send to all between any two members' reading of a new file; none gets the next before all have the last."""
    files = [Keyring(keys) for keys in ((OLD,), (OLD, NEW), (NEW, OLD), (NEW,))]
    sealers = [Sealer(files[0], "", member, 0) for member in range(4)]
    openers = [Opener(files[0], "") for _ in sealers]
    for order, file in zip(orders, files[1:], strict=True):
        for member in order:
            sealers[member].use(file)
            openers[member].use(file)
            for sender, made in enumerate(sealers):
                what = parsed(seal_one(made, message(sender=sender), NOW))
                assert [outcome(opener, what) for opener in openers] == [None] * 4
