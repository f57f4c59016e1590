"""The benches of the relay for media servers: what they make of their times, the player, and a run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import wave
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from benchmarks import dlna, ssdp
from benchmarks import lab as laboratory
from benchmarks.contenders import player
from benchmarks.dlna import DIRECT, GIB, MIB, OURS, PlayResult
from benchmarks.lab import Lab
from benchmarks.talk import Helper, python
from tests.support.needs import unavailable
from tests.support.tree import ROOT

SECOND = 10**9


def test_the_goals_are_of_medians_and_of_the_peak() -> None:
    runs = {
        DIRECT: [PlayResult(SECOND // 2, 1, 0), PlayResult(SECOND // 4, 1, 0), PlayResult(SECOND // 2, 1, 0)],
        OURS: [
            PlayResult(SECOND, 1, SECOND),
            PlayResult(9 * SECOND, 1, SECOND),
            PlayResult(SECOND // 2, 1, 3 * SECOND),
        ],
    }
    speed, memory = dlna._rows(runs, GIB, 50 * MIB)
    assert (speed.ratio, speed.met, memory.ratio, memory.met) == (0.5, True, 0.5, True)
    assert (speed.measured, speed.against) == ("1.07 GB/s", f"{DIRECT}: 2.15 GB/s")
    runs[OURS][2] = PlayResult(9 * SECOND, 1, SECOND)
    slow, large = dlna._rows(runs, GIB, 100 * MIB)
    assert (slow.met, large.met) == (False, False)
    assert [row[-2:] for row in dlna._table(runs, GIB // 2).rows] == [["", "0.00"], ["2.00", "0.00"]]


def test_the_goals_of_the_lan_are_of_the_worst() -> None:
    changes = {ssdp.BYEBYE: [SECOND, 3 * SECOND], ssdp.ALIVE: [4 * SECOND, SECOND]}
    runs = [ssdp.FloodResult("one", 9_900.0, 8 * MIB, SECOND), ssdp.FloodResult("other", 10_000.0, 0, SECOND // 2)]
    rows = ssdp._rows(changes, runs)
    assert [(row.measured, row.ratio, row.met) for row in rows] == [
        ("3.00 s", 1.0, True),
        ("4.00 s", 4 / 3, False),
        ("8.0 MiB", 0.5, True),
        ("1.00 s", 0.5, True),
    ]
    assert all("9,900 searches/s" in row.what for row in rows[2:])


@pytest.mark.parametrize(("searches", "lost", "is_enough"), [(100, 0, True), (60, 40, True), (60, 39, False)])
def test_a_flood_that_has_not_come_measures_nothing(tmp_path: Path, searches: int, lost: int, is_enough: bool) -> None:
    log = tmp_path / "log"
    stopped = {"event": "ssdp_relay_stopped", "searches": searches, "dropped": {"kernel_buffer": lost}}
    log.write_text(f'{{"event": "else"}}\n{json.dumps(stopped)}\n')
    with contextlib.nullcontext() if is_enough else pytest.raises(AssertionError, match="99 of 100 searches"):
        ssdp._check(log, 100)


def test_the_file_is_music_of_the_size(tmp_path: Path) -> None:
    dlna.make_file(tmp_path, 3 * MIB + 100)
    path = tmp_path / "media" / "long.wav"
    assert path.stat().st_size == 3 * MIB + 100
    with wave.open(str(path)) as music:
        assert music.getparams()[:4] == (2, 2, 48_000, (3 * MIB + 100 - 44) // 4)


def test_it_is_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(loopback=True)
    assert "namespaces" in (dlna.why_not(lab) or "")
    lab.loopback = False
    monkeypatch.setenv("PATH", "")
    assert "apt install minidlna" in (dlna.why_not(lab) or "")


BODY = os.urandom(MIB)


class Server(BaseHTTPRequestHandler):
    """Serves a body, and one that ends too early."""

    def do_GET(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(len(BODY) + (self.path == "/short")))
        self.end_headers()
        self.wfile.write(BODY)
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_player_fetches_the_whole_body(url: str) -> None:
    with Helper(python("contenders.player")) as fetching:
        got = fetching.ask(f"get {url}/whole")
        assert fetching.ask(f"sum {url}/whole") == zlib.crc32(BODY)
    assert got["bytes"] == len(BODY)
    assert got["cpu"] > 0
    assert got["wall"] > 0


@pytest.mark.parametrize("path", ["/short", "/missing"])
def test_the_player_takes_nothing_for_the_whole(url: str, path: str) -> None:
    with pytest.raises(ConnectionError):
        player.get(url + path)


def test_a_run_in_the_laboratory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")  # as the bench's own
    lab = Lab(loopback=True)
    lab.loopback = False
    if why := laboratory.why_no_lab() or dlna.why_not(lab):
        unavailable("tools", why)
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "dlna", "--only", "ssdp"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "build" / "bench.json").read_text())["parts"]
    assert {name: len(runs) for name, runs in parts["dlna"]["runs"].items()} == {DIRECT: 3, OURS: 3}
    assert all(run["relay"] > 0 for run in parts["dlna"]["runs"][OURS])
    assert parts["dlna"]["peak"] > 10 * MIB
    assert {nts: len(times) for nts, times in parts["ssdp"]["changes"].items()} == {ssdp.BYEBYE: 1, ssdp.ALIVE: 1}
    assert [run["flood"] for run in parts["ssdp"]["floods"]] == [flood.name for flood in ssdp.FLOODS]
    assert all(run["found"] > 0 for run in parts["ssdp"]["floods"])
