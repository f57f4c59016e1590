"""The datagrams of `fanout bench`: what is written is read, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol import probe
from fanout.protocol.probe import HEADER, REPORT_SIZE, Observed, ProbeKind

RUN = 0x1234_5678_9ABC_DEF0


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_every_kind_is_read_as_it_was_written(run: int, number: int) -> None:
    assert probe.parse(probe.data_prefix(run) + number.to_bytes(8) + b"x") == (ProbeKind.DATA, run, number)
    assert probe.parse(probe.ping(run, number)) == (ProbeKind.PING, run, number)
    assert probe.parse(probe.pong(probe.ping(run, number))) == (ProbeKind.PONG, run, number)
    assert probe.parse(probe.request(run, number)) == (ProbeKind.REQUEST, run, number)
    assert probe.parse(probe.report(run, number, Observed())) == (ProbeKind.REPORT, run, number)


def test_no_answer_is_larger_than_what_it_answers() -> None:
    assert len(probe.pong(probe.ping(RUN, 1))) == HEADER.size
    assert len(probe.report(RUN, 1, Observed(version="x" * 99))) == REPORT_SIZE == len(probe.request(RUN, 1))


@pytest.mark.parametrize(("at", "value"), [(0, 0), (8, 0), (8, 255), (9, 0), (9, 99)])
def test_other_magic_versions_and_kinds_are_none(at: int, value: int) -> None:
    datagram = bytearray(probe.ping(RUN, 1))
    assert probe.parse(bytes(datagram)) is not None
    datagram[at] = value
    assert probe.parse(bytes(datagram)) is None


def test_less_than_a_header_is_none() -> None:
    assert probe.parse(probe.ping(RUN, 1)[:-1]) is None


@given(st.tuples(*[st.integers(0, 2**64 - 1)] * 10), st.text(st.characters(min_codepoint=33, max_codepoint=126)))
def test_a_report_comes_back_as_it_was(counts: tuple[int, ...], version: str) -> None:
    said = Observed._make((*counts, version[:16]))
    frame = probe.report(RUN, 7, said)
    assert len(frame) == REPORT_SIZE == len(probe.request(RUN, 7))
    assert probe.parse(frame) == (ProbeKind.REPORT, RUN, 7)
    assert probe.parse_report(frame) == said


def test_what_a_stranger_puts_into_the_version_cannot_reach_a_terminal() -> None:
    frame = probe.report(RUN, 7, Observed())[:-16] + b"\x1b[2J\n\xff\0x".ljust(16, b"\0")
    assert probe.parse_report(frame) == Observed(version="?[2J???x")


@pytest.mark.parametrize("cut", range(0, 130, 9))
def test_a_truncated_report_is_none(cut: int) -> None:
    frame = probe.report(RUN, 7, Observed())
    assert probe.parse_report(frame[:cut] if cut < REPORT_SIZE else frame + b"x") is None
