"""What the app of `fanout relay ssdp` shows of its counts: the live table, and the metrics."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.daemon.core.ssdp_table import tables
from fanout.daemon.core.text_table import Alarm
from fanout.ssdp.core.drop_reasons import HttpFailure, SsdpDrop
from fanout.ssdp.core.stats import DeviceStats, SsdpStats

UDN = "uuid:4d696e69-444c-164e-9d41-{:012x}"


def devices(count: int, **changes: int) -> list[DeviceStats]:
    return [
        DeviceStats(
            UDN.format(number),
            f"10.60.0.{number}",
            f"http://10.50.0.20:{28_200 + number}/rootDesc.xml",
            f"Films {number}",
            **changes,
        )
        for number in range(1, count + 1)
    ]


def relayed(**changes: object) -> SsdpStats:
    return replace(SsdpStats(devices(2), endpoints=2), **changes)  # type: ignore[arg-type]


def cells(stats: SsdpStats, before: SsdpStats | None = None, *, room: int = 20, width: int = 1000) -> list[str]:
    """The lines of the tables, as words."""
    return [
        " ".join(row)
        for table in tables(before or stats, stats, 2.0, room)
        for each in (table.within(width),)
        for row in ((*each.texts, *each.numbers), *each.rows, (each.more,))
        if any(row)
    ]


def test_the_table_says_what_was_asked_and_carried_and_by_which_device() -> None:
    before = relayed(devices=devices(2, requests=10, bytes=1_000), searches=100, answers=300)
    after = relayed(devices=devices(2, requests=30, bytes=26_000), searches=140, answers=380)
    before.http.requests, before.http.bytes = {28_201: 10, 28_202: 10}, {28_201: 1_000, 28_202: 1_000}
    after.http.requests, after.http.bytes = {28_201: 30, 28_202: 30}, {28_201: 26_000, 28_202: 26_000}
    after.http.connections = 3
    after.http.failures = {HttpFailure.NO_POD: 2}
    after.dropped = {SsdpDrop.NOT_SSDP: 1, SsdpDrop.OVER_LIMIT: 1200}
    assert cells(after, before) == [
        "STATE PODS SEARCHES/S ANSWERS/S CLIENTS REQUESTS/S RATE FAILED DROPPED",
        "relaying 2 20 40 3 20 200 kbit/s 2 1,201",
        "failed: 2 no_pod; dropped: 1,200 over_limit, 1 not_ssdp",
        "DEVICE POD LOCATION REQUESTS/S RATE BYTES",
        "Films 1 10.60.0.1 http://10.50.0.20:28201/rootDesc.xml 10 100 kbit/s 26.0 kB",
        "Films 2 10.60.0.2 http://10.50.0.20:28202/rootDesc.xml 10 100 kbit/s 26.0 kB",
    ]
    (state, *_, failed, dropped), *_ = tables(before, after, 2.0, 20)[0].rows
    assert [isinstance(cell, Alarm) for cell in (state, failed, dropped)] == [False, True, True]


def test_what_it_waits_for_is_told_whole() -> None:
    sentence = "there is no interface eth9 here (yet): is that its name?"
    stats = SsdpStats()
    first, second = tables(stats, stats, 0.0, 20, sentence)
    assert first.rows == [("waiting", "0", "-", "-", "0", "-", "-", "0", "0")]
    assert [isinstance(cell, Alarm) for cell in first.rows[0]][:3] == [True, True, False]
    assert (first.more, second.rows) == (sentence, [])
    stats.dropped[SsdpDrop.NO_ENDPOINTS] = 7
    assert tables(stats, stats, 0.0, 20, sentence)[0].more == f"dropped: 7 no_endpoints\n{sentence}"


def test_devices_that_are_busy_are_shown_where_there_is_no_room_for_all() -> None:
    before = relayed(devices=devices(40))
    after = relayed(devices=devices(40))
    after.devices[36].requests = 1
    for room in (2, 3, 10, 30):
        first, second = tables(before, after, 1.0, room)
        assert len(first.rows) + len(second.rows) == room
        assert second.rows[0][0] == "Films 37"
        assert second.more == f"and {40 - len(second.rows)} more devices"


def test_a_device_that_has_come_has_not_sent_all_at_once_before() -> None:
    after = relayed(devices=devices(1, requests=4, bytes=4_000))
    assert cells(after, SsdpStats())[3].endswith(" 2.0 16.0 kbit/s 4.0 kB")


@pytest.mark.parametrize(
    ("width", "first", "second"),
    [
        (140, "STATE PODS SEARCHES/S ANSWERS/S CLIENTS REQUESTS/S RATE FAILED DROPPED",
         "DEVICE POD LOCATION REQUESTS/S RATE BYTES"),
        (80, "STATE PODS SEARCHES/S ANSWERS/S REQUESTS/S RATE FAILED DROPPED", "DEVICE POD LOCATION REQUESTS/S RATE"),
        (60, "STATE PODS SEARCHES/S ANSWERS/S FAILED DROPPED", "DEVICE LOCATION RATE"),
        (40, "STATE SEARCHES/S FAILED DROPPED", "DEVICE LOCATION"),
    ],
)  # fmt: skip
def test_a_narrow_terminal_has_fewer_columns(width: int, first: str, second: str) -> None:
    lines = cells(relayed(), width=width)
    assert (lines[0], lines[2]) == (first, second)


@given(st.text(max_size=200), st.text(max_size=200))
def test_nothing_of_a_stranger_reaches_the_terminal_but_letters(name: str, location: str) -> None:
    stats = relayed(devices=[DeviceStats(UDN.format(1), "10.60.0.1", location, name)])
    (row,) = tables(stats, stats, 1.0, 20)[1].rows
    assert all(cell.isprintable() and len(cell) <= 60 for cell in row)
    assert row[0]


def test_a_name_may_be_hostile_long_or_missing() -> None:
    names = ["\x1b[2J\x9b\u202eFilms\r\n\x00", "x" * 100, ""]
    stats = relayed(devices=[DeviceStats(UDN.format(1), "10.60.0.1", "", name) for name in names])
    shown = {row[0] for row in tables(stats, stats, 1.0, 20)[1].rows}
    assert shown == {"?[2J??Films???", "x" * 29 + "…", "uuid:4d696e69-444c-164e-9d41-…"}
