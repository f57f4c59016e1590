"""The laboratory: its parts, and a quick run of it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import lab as laboratory
from benchmarks import plot, publish, table, talk
from benchmarks.contenders import starting, worker
from benchmarks.lab import MOST_PODS, Lab
from benchmarks.rows import Row, Spread, Table, si
from fanout.model import parse_literals
from tests.support.needs import require, unavailable
from tests.support.ports import free_port
from tests.support.tree import ROOT


@pytest.mark.parametrize(
    ("ratio", "goal", "met"),
    [(10.0, ">= 10", True), (9.99, ">= 10", False), (1.1, "<= 1.1", True), (2.0, "< 2", False), (1.0, "= 1", True)],
)
def test_a_goal_is_met_or_not(ratio: float, goal: str, met: bool) -> None:
    assert Row("what", "measured", "against", ratio, goal).met is met


def test_what_is_there_for_comparison_has_no_goal() -> None:
    row = Row("what", "measured", "against", 5.0)
    assert row.met is None
    assert table.goals_table([row]).rows == [["what", "measured", "against", "5", "", ""]]


def test_repeats_are_summed_up() -> None:
    spread = Spread.of([3.0, 1.0, 2.0])
    assert spread == (2.0, 1.0, 3.0)
    assert spread.noise == 0.5


@pytest.mark.parametrize(
    ("number", "text"),
    [(64, "64"), (999.7, "1 k"), (205_268, "205 k"), (999_700, "1 M"), (1_639_928, "1.64 M"), (12_345_678, "12.3 M")],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert si(number) == text


@pytest.mark.parametrize("pods", [1, 2, MOST_PODS])
def test_pods_have_addresses_of_their_own(pods: int) -> None:
    lab = Lab(loopback=True)
    addresses = lab.addresses(pods)
    assert len(set(addresses)) == pods
    assert all(socket.inet_aton(address) for address in addresses)
    parsed = parse_literals(worker.literal([(address, 12000) for address in addresses]), 1)
    assert parsed is not None
    assert [endpoint.host for endpoint in parsed] == addresses


def test_each_contender_has_a_name_and_a_start() -> None:
    started = {*starting._WORKERS, *starting._IN_C, starting.GSTREAMER}
    framed = {starting.NUMBERED, starting.SEALED, starting.CONFIRMED, starting.ROUND_TRIP}
    assert {*starting.ALL, starting.SINGLE_LOOP, starting.SINGLE_MANY} | framed == started
    assert set(starting._WORKERS.values()) == set(worker.CONTENDERS)


def test_tables_take_their_place_in_a_page() -> None:
    page = "before\n<!-- table: Goals -->\nold\n<!-- end -->\nafter\n"
    new = table.markdown(Table("Goals", ["a", "b"], [["1", "2"]]), titled=False)
    filled = publish.filled(page, {"Goals": new})
    expected = "before\n<!-- table: Goals -->\n| a | b |\n| --- | ---: |\n| 1 | 2 |\n<!-- end -->\nafter\n"
    assert filled == expected
    assert publish.filled(filled, {"Goals": new}) == filled
    with pytest.raises(KeyError):
        publish.filled(page, {})


def test_the_page_has_places_of_tables_alone_that_are_measured() -> None:
    page = ROOT.joinpath("docs", "performance.md").read_text()
    assert page.count("<!-- table: ") == page.count("<!-- end -->") > 0


def test_the_picture_refers_to_nothing_outside(tmp_path: Path) -> None:
    path = tmp_path / "picture.svg"
    plot.bars(path, "title", {"fanout send_many, list": 10e6, "sendto loop, C": 220e3})
    text = path.read_text()
    ET.fromstring(text)
    assert not re.search(r"<script|<image|href=|@import|url\(\s*['\"]?http", text)
    assert "10 M/s" in text
    plot.bars(tmp_path / "again.svg", "title", {"fanout send_many, list": 10e6, "sendto loop, C": 220e3})
    assert (tmp_path / "again.svg").read_text() == text


def test_the_laboratory_runs(tmp_path: Path) -> None:
    """One part, quickly: each goal has its row, and nothing fails."""
    require("gcc")
    if why := laboratory.why_no_lab():
        unavailable("tools", why)
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "latency"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    for row in ("one message to 8 pods, time of send", "one message to 2 pods, time of send"):
        assert f"  {row}  " in done.stdout
    assert json.loads((tmp_path / "build" / "bench.json").read_text())["machine"]["quick"]


def test_the_counter_counts_each_datagram_whole_or_in_segments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require("gcc")
    monkeypatch.setattr(talk, "_BUILT", tmp_path)
    port = free_port()
    monkeypatch.setattr(talk, "PORT", port)
    lab = Lab(loopback=True)
    segments = (socket.SOL_UDP, 103, (100).to_bytes(2, "little"))
    with talk.Counter(lab, 2) as counter, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for gro in (True, False):
            before = counter.ask("read")
            counter.take_gro(gro)
            sender.sendmsg([b"x" * 250], [segments], 0, (lab.address(0), port))
            sender.sendto(b"x" * 300, (lab.address(1), port))
            after = counter.read_pods(sum(pod["datagrams"] for pod in before) + 4, patience=talk.LONG_PATIENCE)
            assert [new["datagrams"] - old["datagrams"] for new, old in zip(after, before, strict=True)] == [3, 1]
            assert [new["bytes"] - old["bytes"] for new, old in zip(after, before, strict=True)] == [250, 300]
            assert [pod["dropped"] for pod in after] == [0, 0]
