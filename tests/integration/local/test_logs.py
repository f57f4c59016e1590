"""The pods' logs: followed while they rotate, come and go; shown to people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.local import logs, state
from fanout.local.logs import LogFile


def line(second: int, event: str = "message_received", **values: object) -> bytes:
    return json.dumps({"event": event, "timestamp": f"2026-01-01T00:00:{second:02}.000001Z", **values}).encode()


def texts(lines: list[logs.Line]) -> list[bytes]:
    return [entry.text for entry in lines]


def test_following_misses_nothing_where_logs_rotate_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogFile(str(tmp_path), "pod-0", max_size=200)
    log.write(line(0))
    late: list[LogFile] = []

    def one_step_later() -> object:
        """Called by `follow` each time it has read everything: write more, and end after 30 steps."""
        step = len(steps)
        steps.append(step)
        if step < 30:
            log.write(line(step + 1))
        if step == 3:
            late.append(LogFile(str(tmp_path), "pod-1"))
            late[0].write(line(59, "receiver_started"))
        if step == 10:
            late[0].write(line(59, "receiver_stopped"))
            late[0].remove()
        return True if step < 30 else None

    steps: list[int] = []
    monkeypatch.setattr(state, "find", one_step_later)
    monkeypatch.setattr(logs, "_POLL_INTERVAL", 0)
    seen = list(logs.follow(str(tmp_path)))
    log.close()
    assert texts([entry for entry in seen if entry.pod == "pod-0"]) == [line(second) for second in range(31)]
    assert texts([entry for entry in seen if entry.pod == "pod-1"]) == [
        line(59, "receiver_started"),
        line(59, "receiver_stopped"),
    ]


@given(
    st.one_of(
        st.binary(), st.dictionaries(st.text(), st.text()).map(lambda d: json.dumps({**d, "event": "e"}).encode())
    )
)
def test_rendering_never_raises_and_keeps_to_one_harmless_line(text: bytes) -> None:
    assert logs.render(text).isprintable()
