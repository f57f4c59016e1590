"""What every live table is made of: rates from two snapshots, sizes, and what is left out for lack of space."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.daemon.core.text_table import (
    Alarm,
    TextTable,
    Window,
    bits_per_second,
    chosen,
    drops,
    more,
    per_second,
    size,
)
from fanout.relay.core.drop_reasons import RelayDrop


def test_a_window_holds_against_what_was_a_second_ago() -> None:
    window: Window[int] = Window()
    assert window.add(10.0, 0) == (0, 0.0)
    for tenths in range(1, 50):
        before, seconds = window.add(10.0 + tenths / 10, tenths)
        assert before == tenths - round(seconds * 10)
        assert seconds == pytest.approx(min(tenths / 10, 1.0), abs=0.101)
    before, seconds = window.add(100.0, 7)
    assert (before, round(seconds, 1)) == (49, 85.1), "after a pause, over all of it"


@given(st.lists(st.floats(0, 3), min_size=1, max_size=50))
def test_a_window_finds_the_youngest_of_those_a_second_old(steps: list[float]) -> None:
    window: Window[float] = Window()
    times: list[float] = []
    now = 0.0
    for step in steps:
        now += step
        times.append(now)
        expected = max((then for then in times if now - then >= 1.0), default=times[0])
        assert window.add(now, now) == (expected, now - expected)


def test_rates() -> None:
    assert per_second(5, 5, 0.0) == bits_per_second(0, 9, 0.0) == "-"
    assert [per_second(0, count, 2.0) for count in (0, 1, 30, 2_400_000)] == ["0", "0.5", "15", "1,200,000"]
    assert per_second(100, 40, 2.0) == "20", "it began again"
    assert [bits_per_second(0, count, 1.0) for count in (0, 3, 1_000, 12_500_000, 125_000_000, 2 * 10**11)] == [
        "0 bit/s", "24 bit/s", "8.0 kbit/s", "100 Mbit/s", "1.0 Gbit/s", "1.6 Tbit/s",
    ]  # fmt: skip
    assert [size(count) for count in (0, 999, 1000, 99_949, 99_950, 1_000_000, 10**16)] == [
        "0 B", "999 B", "1.0 kB", "99.9 kB", "100 kB", "1.0 MB", "10,000.0 TB",
    ]  # fmt: skip
    assert drops({RelayDrop.OWN: 0}) == drops({}) == "0"
    assert drops({RelayDrop.OWN: 3, RelayDrop.KERNEL_BUFFER: 1200, RelayDrop.LOOP: 3}) == Alarm(
        "1,200 kernel_buffer, 3 loop, 3 own"
    )


def test_those_in_trouble_are_shown_where_there_is_no_room_for_all() -> None:
    assert chosen([0, 1, 0, 2], 4, bool) == [0, 1, 0, 2]
    assert chosen([0, 1, 0, 2], 3, bool) == [1, 2, 0]
    assert chosen([0, 1, 0, 2], -1, bool) == []
    assert [more(count, "pod", "pods") for count in (0, 1, 2000)] == ["", "and 1 more pod", "and 2,000 more pods"]


def test_a_narrow_table_has_fewer_columns() -> None:
    whole = TextTable(("NAME", "OF"), ("RATE", "DROPPED"), [("a" * 10, "b", "1", "0")], dispensable=("RATE", "OF"))
    assert whole.within(29) == whole
    assert whole.within(28) == whole._replace(numbers=("DROPPED",), rows=[("a" * 10, "b", "0")])
    assert whole.within(1) == whole._replace(texts=("NAME",), numbers=("DROPPED",), rows=[("a" * 10, "0")])
