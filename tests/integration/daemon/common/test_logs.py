"""The log of an app: what becomes of lines that cannot be written, and of those of other threads."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fanout.daemon.common import logs
from fanout.daemon.common.logs import LogStream
from fanout.errors import FanoutError
from tests.support.cli import as_before
from tests.support.waiting import until


@contextmanager
def stream_to(path: Path, patience: float | None = None) -> Iterator[LogStream]:
    stream = LogStream(str(path), patience=patience)
    with stream._file:
        yield stream


def write_elsewhere(stream: LogStream, line: str) -> None:
    """Write from another thread, where an exception would be a warning of pytest, and that an error."""
    thread = threading.Thread(target=stream.write, args=(line,))
    thread.start()
    thread.join()


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


def test_what_the_library_cannot_say_ends_the_start_as_well() -> None:
    with stream_to(Path("/dev/full")) as stream, as_before():
        logs.configure(stream, "json", "info")
        library = logging.getLogger("fanout")
        with pytest.raises(FanoutError, match="cannot write the log to /dev/full: No space left"):
            library.warning("receive_buffer: %(granted)d", {"granted": 1})
        stream.started()
        library.warning("receive_buffer: %(granted)d", {"granted": 1})
        assert stream.lost_lines == 1


class Hasty:
    """Polls as it is asked to, but does not wait: keeps how long it would have waited in vain."""

    def __init__(self, stream: LogStream) -> None:
        self._poll = stream._poll
        self.waited: list[float | None] = []

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        ready = self._poll.poll(0)
        if not ready:
            self.waited.append(timeout)
        return ready


def test_a_reader_that_stops_is_waited_for_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    room = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
    try:
        with stream_to(pipe, 3600.0) as stream:
            hasty = Hasty(stream)
            monkeypatch.setattr(stream, "_poll", hasty)
            stream.started()
            written = room // 6000 + 100
            for number in range(written):
                stream.write(f"{number} {'x' * 6000}")
            assert hasty.waited == [3_600_000.0] + [0] * (stream.lost_lines - 1)
            assert stream.lost_lines >= 100
            assert "nobody reads it" in capsys.readouterr().err
            lines = read_all(reader)
            stream.write("goes on")
            lines += read_all(reader)
    finally:
        os.close(reader)
    *whole, last = lines.decode().splitlines()
    assert last == "goes on"
    assert [line for line in whole[:-1] if len(line) < 6000] == [], "one line at most is torn"
    assert written - len(whole) <= stream.lost_lines <= written - len(whole) + 1


def test_threads_that_write_at_once_take_turns(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    expected = [f"{number} {'x' * 6000}" for number in range(60)]
    try:
        with stream_to(pipe, 3600.0) as stream:
            stream.started()
            threads = [threading.Thread(target=stream.write, args=(line,)) for line in expected]
            for thread in threads:
                thread.start()
            read = bytearray()

            def all_is_read() -> bool:
                read.extend(read_all(reader))
                return read.count(b"\n") == len(expected)

            until(all_is_read)
            for thread in threads:
                thread.join()
            assert stream.lost_lines == 0
    finally:
        os.close(reader)
    assert sorted(read.decode().splitlines()) == sorted(expected)


def read_all(reader: int) -> bytes:
    found = b""
    with contextlib.suppress(BlockingIOError):
        while more := os.read(reader, 1 << 20):
            found += more
    return found
