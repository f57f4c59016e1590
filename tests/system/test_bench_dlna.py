"""The bench of the relay for media servers: what it makes of its times, its player, and a run."""

from __future__ import annotations

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

from bench import dlna
from bench import lab as laboratory
from bench.contenders import player
from bench.dlna import DIRECT, GIB, MIB, OURS, Run
from bench.lab import Lab
from bench.talk import Helper, python
from tests.support.needs import unavailable
from tests.support.tree import ROOT

SECOND = 10**9


def test_the_goals_are_of_medians_and_of_the_peak() -> None:
    runs = {
        DIRECT: [Run(SECOND // 2, 1, 0), Run(SECOND // 4, 1, 0), Run(SECOND // 2, 1, 0)],
        OURS: [Run(SECOND, 1, SECOND), Run(9 * SECOND, 1, SECOND), Run(SECOND // 2, 1, 3 * SECOND)],
    }
    speed, memory = dlna._rows(runs, GIB, 50 * MIB)
    assert (speed.ratio, speed.met, memory.ratio, memory.met) == (0.5, True, 0.5, True)
    assert (speed.measured, speed.against) == ("1.07 GB/s", f"{DIRECT}: 2.15 GB/s")
    runs[OURS][2] = Run(9 * SECOND, 1, SECOND)
    slow, large = dlna._rows(runs, GIB, 100 * MIB)
    assert (slow.met, large.met) == (False, False)
    assert [row[-2:] for row in dlna._table(runs, GIB // 2).rows] == [["", "0.00"], ["2.00", "0.00"]]


def test_the_file_is_music_of_the_size(tmp_path: Path) -> None:
    dlna._make_file(tmp_path, 3 * MIB + 100)
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
    assert 0 < got["cpu"] < got["wall"] + SECOND


@pytest.mark.parametrize("path", ["/short", "/missing"])
def test_the_player_takes_nothing_for_the_whole(url: str, path: str) -> None:
    with pytest.raises(ConnectionError):
        player.get(url + path)


@pytest.mark.alone
def test_a_run_in_the_laboratory(tmp_path: Path) -> None:
    lab = Lab(loopback=True)
    lab.loopback = False
    if why := laboratory.why_no_lab() or dlna.why_not(lab):
        unavailable("tools", why)
    command = [sys.executable, "-m", "bench", "--quick", "--only", "dlna"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    part = json.loads((tmp_path / "build" / "bench.json").read_text())["parts"]["dlna"]
    assert {name: len(runs) for name, runs in part["runs"].items()} == {DIRECT: 3, OURS: 3}
    assert all(run["relay"] > 0 for run in part["runs"][OURS])
    assert max(run["relay"] for run in part["runs"][DIRECT]) < min(run["relay"] for run in part["runs"][OURS]) / 4
    assert 10 * MIB < part["peak"] < 100 * MIB
