"""The probes of `fanout bench`: counts are exact for any order of arrival, and nothing is answered that must not be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol import probe
from fanout.protocol.probe import HEADER, MAGIC, NUMBER_LIMIT, REPORT_SIZE, VERSION, Observed, ProbeKind
from fanout.protocol.probe_log import RUNS, WINDOW, ProbeLog

RUN = 0x1234_5678_9ABC_DEF0


def no_drops() -> tuple[int, int]:
    return 0, 0


def data(number: int, size: int = 64, run: int = RUN) -> bytes:
    return (probe.data_prefix(run) + number.to_bytes(8)).ljust(size, b"\0")


def observed(log: ProbeLog, run: int = RUN, now: float = 0.0) -> Observed:
    reply = log.take(probe.request(run, 1), now)
    assert reply is not None
    seen = probe.parse_report(reply)
    assert seen is not None
    return seen


def truth(numbers: list[int], window: int) -> tuple[int, int, int, int, int, int]:
    """Return what `Observed` must say, by the definitions and with all numbers remembered."""
    seen: set[int] = set()
    expected = duplicates = reordered = stale = 0
    for number in numbers:
        if number < expected - window:
            stale += 1
            continue
        if number in seen:
            duplicates += 1
        else:
            seen.add(number)
            reordered += number < expected
        expected = max(expected, number + 1)
    return len(numbers), len(seen), expected, duplicates, reordered, stale


@given(st.lists(st.integers(0, 60) | st.integers(0, NUMBER_LIMIT - 1), max_size=120), st.sampled_from([1, 7, 16, 64]))
def test_any_order_of_arrival_gives_exactly_the_true_counts(numbers: list[int], window: int) -> None:
    log = ProbeLog("1", no_drops, window=window)
    for number in numbers:
        assert log.take(data(number), 1.0) is None
    seen = observed(log)
    assert seen[:6] == truth(numbers, window)
    assert seen.bytes == 64 * len(numbers)
    assert seen.received == seen.unique + seen.duplicates + seen.stale


FATES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7)), min_size=1, max_size=150)
"""How many copies of each message arrive, and by how many messages they are late."""


@given(FATES, st.sampled_from([16, WINDOW]))
def test_a_lossy_network_is_measured_exactly(fates: list[tuple[int, int]], window: int) -> None:
    """A stream of which some are lost, some doubled and some late, by less than the window."""
    arrivals = sorted((number + late, number) for number, (copies, late) in enumerate(fates) for _ in range(copies))
    log = ProbeLog("1", no_drops, window=window)
    for _, number in arrivals:
        log.take(data(number), 0.0)
    seen = observed(log)
    assert seen.unique == sum(copies > 0 for copies, _ in fates)
    assert seen.duplicates == sum(copies > 1 for copies, _ in fates)
    assert seen.stale == 0


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_counted_and_never_answered_with_more(noise: bytes, with_magic: bool) -> None:
    log = ProbeLog("1", no_drops)
    datagram = MAGIC + noise if with_magic else noise
    reply = log.take(datagram, 0.0)
    assert reply is None or len(reply) <= len(datagram)
    assert log.taken == 1
    probe.parse(datagram)
    probe.parse_report(datagram)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**64 - 1), st.integers(HEADER.size, 300))
def test_only_pings_and_requests_are_answered(version: int, kind: int, number: int, size: int) -> None:
    log = ProbeLog("1", no_drops)
    datagram = HEADER.pack(MAGIC, version, kind, 0, RUN, number).ljust(size, b"x")
    reply = log.take(datagram, 0.0)
    if version != VERSION or kind not in (ProbeKind.DATA, ProbeKind.PING, ProbeKind.REQUEST):
        assert (reply, log.unknown) == (None, 1)
    elif kind == ProbeKind.DATA:
        assert (reply, log.unknown) == (None, int(number >= NUMBER_LIMIT))
    elif kind == ProbeKind.PING:
        assert reply == HEADER.pack(MAGIC, version, ProbeKind.PONG, 0, RUN, number).ljust(size, b"x")
    elif size < REPORT_SIZE:
        assert (reply, log.unknown) == (None, 1)
    else:
        assert reply is not None
        assert len(reply) == REPORT_SIZE
        assert log.take(reply, 0.0) is None, "or two receivers would keep each other busy"


def test_a_ping_comes_back_as_large_as_it_was() -> None:
    log = ProbeLog("1", no_drops)
    reply = log.take(probe.ping(RUN, 9) + b"padding", 0.0)
    assert reply is not None
    assert reply.endswith(b"padding")
    assert probe.parse(reply) == (ProbeKind.PONG, RUN, 9)
    assert (log.taken, log.unknown) == (1, 0)


def test_rate_and_drops_count_from_the_beginning_of_the_run() -> None:
    drops = (5, 50)
    log = ProbeLog("0.1.0", lambda: drops)
    log.take(data(0), 100.0)
    drops = (7, 50)
    log.take(data(1), 100.25)
    seen = observed(log, now=200.0)
    assert seen.nanoseconds == 250_000_000
    assert (seen.kernel_drops, seen.queue_drops, seen.version) == (2, 0, "0.1.0")


def test_a_request_without_room_for_the_answer_is_none() -> None:
    log = ProbeLog("1", no_drops)
    whole = probe.request(RUN, 1)
    assert [log.take(whole[:size], 0.0) for size in (HEADER.size, REPORT_SIZE - 1)] == [None, None]
    assert log.unknown == 2
    assert log.take(whole[:REPORT_SIZE], 0.0) is not None


def test_a_request_begins_a_run() -> None:
    drops = (5, 1)
    log = ProbeLog("0.1.0", lambda: drops)
    assert observed(log) == Observed(version="0.1.0")
    drops = (8, 3)
    assert observed(log) == Observed(kernel_drops=3, queue_drops=2, version="0.1.0")


def test_runs_do_not_mix_and_the_quietest_makes_room() -> None:
    log = ProbeLog("1", no_drops)
    for run in range(RUNS):
        log.take(data(0, run=run), 0.0)
    log.take(data(1, run=0), 0.0)
    log.take(data(0, run=RUNS), 0.0)
    assert observed(log, run=0).unique == 2
    assert observed(log, run=RUNS).unique == 1
    assert observed(log, run=2).unique == 1
    assert observed(log, run=1).unique == 0, "it made room"
