"""What a pod has of a large message, and what has come of its reply: how many are sent and asked for at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol.frame import PULLS_MAX, REPLIES_UNASKED, ReplyFragment, bitmap
from fanout.protocol.sending.fragments import WINDOW_FIRST, WINDOW_MOST, ReplyAssembly, SendWindow


def test_a_burst_doubles_while_nothing_is_lost_up_to_the_most() -> None:
    window = SendWindow(1000)
    burst = window.burst(is_retry=False)
    sizes = [len(burst)]
    while burst[-1] < 999:
        assert window.record(burst[-1] + 1, b"")
        burst = window.burst(is_retry=False)
        sizes.append(len(burst))
    assert sizes[:4] == [WINDOW_FIRST, 2 * WINDOW_FIRST, 4 * WINDOW_FIRST, WINDOW_MOST]
    assert max(sizes) == WINDOW_MOST
    assert sum(sizes) == 1000


def test_loss_halves_a_burst_and_a_retry_asks_with_one_fragment() -> None:
    window = SendWindow(100)
    window.burst(is_retry=False)
    assert window.record(3, bitmap([False] + [True] * 12))
    assert window.arrived == 15
    again = window.burst(is_retry=False)
    assert again == (3, *range(16, 16 + WINDOW_FIRST // 2 - 1)), "what is missing, and then what was not sent yet"
    assert window.burst(is_retry=True) == (3,)
    assert len(window.burst(is_retry=False)) == WINDOW_FIRST // 4


def test_a_pod_that_has_nothing_new_is_no_news_and_one_that_gave_up_is() -> None:
    window = SendWindow(4)
    window.burst(is_retry=False)
    assert window.record(2, b"")
    assert not window.record(2, b"")
    assert window.record(0, bitmap([False, True, False, False])), "it begins again with less"
    assert window.arrived == 1


def test_where_all_has_arrived_the_last_fragment_asks() -> None:
    window = SendWindow(5)
    window.all_arrived()
    assert window.arrived == 5
    assert window.burst(is_retry=False) == (4,)


@given(st.integers(2, 300), st.data())
def test_whatever_a_pod_says_a_burst_is_of_the_message_and_bounded(parts: int, data: st.DataObject) -> None:
    window = SendWindow(parts)
    for _ in range(6):
        burst = window.burst(is_retry=data.draw(st.booleans()))
        assert 1 <= len(burst) <= WINDOW_MOST
        assert list(burst) == sorted(set(burst))
        assert burst[-1] < parts
        window.record(data.draw(st.integers(0, 2**32 - 1) | st.integers(0, parts)), data.draw(st.binary(max_size=40)))
        assert window.arrived <= parts


def part(position: int, parts: int, payload: bytes = b"xx") -> ReplyFragment:
    return ReplyFragment(2, 7, 1, 0, 2, position, 2 * parts, payload)


def test_a_reply_is_whole_in_any_order_and_each_part_counts_once() -> None:
    reply = ReplyAssembly(part(1, 3))
    assert [reply.take(part(position, 3, bytes((position, 0)))) for position in (2, 0, 2)] == [True, True, False]
    assert not reply.take(part(1, 4)), "it is of another reply"
    assert (reply.size, reply.is_whole) == (4, False)
    assert reply.take(part(1, 3, b"\1\0"))
    assert reply.is_whole
    assert reply.join() == b"\0\0\1\0\2\0"


def test_more_is_wanted_once_all_that_was_asked_for_has_come() -> None:
    parts = REPLIES_UNASKED + PULLS_MAX + 5
    reply = ReplyAssembly(part(0, parts))
    for position in range(REPLIES_UNASKED):
        assert not reply.wants_more
        reply.take(part(position, parts))
    assert reply.wants_more
    assert reply.ask() == tuple(range(REPLIES_UNASKED, REPLIES_UNASKED + PULLS_MAX))
    assert not reply.wants_more
