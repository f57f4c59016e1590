"""The pods' logs: written, rotated, merged, followed, and shown to people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fanout.local import logs, state
from fanout.local.logs import LogFile


def line(second: int, event: str = "message_received", **values: object) -> bytes:
    return json.dumps({"event": event, "timestamp": f"2026-01-01T00:00:{second:02}.000001Z", **values}).encode()


def texts(lines: list[logs.Line]) -> list[bytes]:
    return [entry.text for entry in lines]


def test_logs_are_merged_by_time(tmp_path: Path) -> None:
    for pod, seconds in (("pod-0", (1, 4)), ("pod-1", (2, 3)), ("pod-10", (5,))):
        log = LogFile(str(tmp_path), pod)
        for second in seconds:
            log.write(line(second))
        log.close()
    assert logs.names(str(tmp_path)) == ["pod-0", "pod-1", "pod-10"]
    assert texts(logs.read(str(tmp_path))) == [line(second) for second in (1, 2, 3, 4, 5)]
    assert texts(logs.read(str(tmp_path), ["pod-1"])) == [line(2), line(3)]
    assert texts(logs.read(str(tmp_path), tail=1)) == [line(3), line(4), line(5)]
    assert logs.read(str(tmp_path), tail=0) == []


def test_lines_without_a_time_stay_where_they_were_written(tmp_path: Path) -> None:
    log, other = LogFile(str(tmp_path), "pod-0"), LogFile(str(tmp_path), "pod-1")
    for text in (line(2), b"Traceback", b"  oops"):
        log.write(text)
    other.write(line(3))
    assert texts(logs.read(str(tmp_path))) == [line(2), b"Traceback", b"  oops", line(3)]
    log.close()
    other.close()


def test_a_log_is_bounded_and_read_across_its_two_files(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path), "pod-0", max_size=200)
    for second in range(20):
        log.write(line(second))
    files = list(Path(state.logs_path(str(tmp_path))).iterdir())
    assert {path.name for path in files} == {"pod-0.log", "pod-0.log.1"}
    assert all(path.stat().st_size < 400 for path in files)
    kept = texts(logs.read(str(tmp_path)))
    assert kept == [line(second) for second in range(20 - len(kept), 20)]
    assert len(kept) >= 3
    log.remove()
    assert not list(Path(state.logs_path(str(tmp_path))).iterdir())


def test_an_event_is_shown_with_what_tells_something() -> None:
    text = line(
        7, pod="p", namespace="n", pod_ip="i", node="v", level="info", source="127.0.0.1:9", size=2, payload="hi"
    )
    assert logs.render(text) == "00:00:07.000 message_received source=127.0.0.1:9 size=2 payload=hi"
    assert logs.render(line(7, "kernel_dropped", level="warning", count=3)).endswith("kernel_dropped warning count=3")


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ("two words", '"two words"'),
        ("", '""'),
        ("ü", "ü"),
        ("a=b", '"a=b"'),
        ("\x1b[31m\n", '"\\u001b[31m\\n"'),
        ("\x9b31m", '"\\u009b31m"'),
        ("\u202eevil", '"\\u202eevil"'),
        (None, "null"),
        (["\x1b"], '["\\u001b"]'),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(payload: object, shown: str) -> None:
    assert logs.render(line(7, payload=payload)).endswith(f" payload={shown}")


def test_other_lines_are_shown_as_they_are_but_harmless() -> None:
    assert logs.render(b"fanout: port in use \xff \x1b[2J \xc3\xbc") == r"fanout: port in use \xff \x1b[2J ü"
    assert logs.render(b"[1, 2]") == "[1, 2]"
    assert logs.render(b'{"event": 3}') == '{"event": 3}'
