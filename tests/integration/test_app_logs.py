"""The log of an app: what becomes of lines that cannot be written, and of those of other threads."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fanout.app.logs import LogStream
from fanout.errors import FanoutError


@contextmanager
def stream_to(path: Path, patience: float | None = None) -> Iterator[LogStream]:
    stream = LogStream(str(path), patience=patience)
    with stream._file:
        yield stream


def write_elsewhere(stream: LogStream, line: str) -> None:
    """Write from another thread, where an exception would be a warning of pytest, and that an error."""
    thread = threading.Thread(target=stream.write, args=(line,))
    thread.start()
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_lines_of_other_threads_wait_until_the_app_has_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with stream_to(log) as stream:
        write_elsewhere(stream, "pod_joined")
        stream.write("started")
        assert log.read_text() == "started\n"
        stream.started()
        write_elsewhere(stream, "pod_left")
        assert log.read_text() == "started\npod_joined\npod_left\n"
        assert stream.lost_lines == 0


def test_only_the_thread_that_starts_the_app_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with stream_to(Path("/dev/full")) as stream:
        write_elsewhere(stream, "pod_joined")
        with pytest.raises(FanoutError, match="cannot write the log to /dev/full: No space left"):
            stream.write("started")
        stream.started()
        write_elsewhere(stream, "pod_left")
        stream.write("stopped")
        assert stream.lost_lines == 3
        assert capsys.readouterr().err.count("log lines are lost from now on") == 1


def test_a_reader_that_stops_does_not_stop_who_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with stream_to(pipe, 0.2) as stream:
            stream.started()
            began = time.monotonic()
            for number in range(300):
                stream.write(f"{number} {'x' * 6000}")
            assert time.monotonic() - began < 5
            assert stream.lost_lines > 250
            assert "nobody reads it" in capsys.readouterr().err
            lines = read_all(reader)
            stream.write("goes on")
            lines += read_all(reader)
    finally:
        os.close(reader)
    *whole, last = lines.decode().splitlines()
    assert last == "goes on"
    assert [line for line in whole[:-1] if len(line) < 6000] == [], "one line at most is torn"


def read_all(reader: int) -> bytes:
    found = b""
    with contextlib.suppress(BlockingIOError):
        while more := os.read(reader, 1 << 20):
            found += more
    return found
