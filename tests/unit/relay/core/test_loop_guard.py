"""What comes back to a relay in a loop: found, whatever the way, and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.relay.core import loop_guard
from fanout.relay.core.loop_guard import LoopGuard


def test_what_comes_back_from_another_is_a_loop_and_a_repeat_is_none() -> None:
    guard = LoopGuard()
    device, other = ("10.0.0.1", 5000), ("10.0.0.9", 40_000)
    assert not guard.is_loop(b"beat", device, 0.0)
    assert guard.is_loop(b"beat", other, 0.1)
    assert not guard.is_loop(b"beat", device, 1.0)
    assert guard.is_loop(b"beat", other, 5.9)
    assert not guard.is_loop(b"other", other, 6.0)
    assert not guard.is_loop(b"beat", other, 1.0 + loop_guard.LOOP_SECONDS + 0.1)


def test_another_program_of_the_same_host_is_another_source() -> None:
    guard = LoopGuard()
    assert not guard.is_loop(b"x", ("10.0.0.1", 5000), 0.0)
    assert guard.is_loop(b"x", ("10.0.0.1", 5001), 0.0)


@given(st.integers(2, 5), st.integers(0, 4), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_a_ring_of_relays_forwards_each_datagram_once(relays: int, entry: int, payloads: list[int]) -> None:
    """Each relay sends to the next; a device sends to one of them, over and over."""
    ring = [LoopGuard() for _ in range(relays)]
    for number, payload in enumerate(payloads):
        at, source, forwarded = entry % relays, "device", [0] * relays
        while not ring[at].is_loop(bytes([payload]), source, number * 0.5):
            forwarded[at] += 1
            assert forwarded[at] == 1, "a storm"
            at, source = (at + 1) % relays, f"relay {at}"
        assert forwarded == [1] * relays


def test_the_memory_of_payloads_is_bounded_by_number_and_by_time() -> None:
    guard = LoopGuard()
    for number in range(loop_guard.LOOP_PAYLOADS + 1000):
        guard.is_loop(number.to_bytes(4, "big"), "a", 0.0)
    assert len(guard._seen) == loop_guard.LOOP_PAYLOADS
    guard.is_loop(b"later", "a", loop_guard.LOOP_SECONDS + 1)
    assert len(guard._seen) == 1
