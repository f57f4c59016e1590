"""The pods' logs: a bounded file a pod, read back in order of time, followed, and made readable."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fanout.local import state

MAX_FILE_SIZE = 4 * 1024 * 1024
"""Bytes; a pod keeps the present file and the one before it. The state directory is often in memory."""
_POLL_INTERVAL = 0.1
_SUFFIX = ".log"
_FIXED_KEYS = frozenset({"event", "timestamp", "level", "pod", "namespace", "pod_ip", "node"})
"""Shown in their own place, or the same in every line of a pod."""


class Line(NamedTuple):
    """One line of a pod's log, as the pod wrote it."""

    pod: str
    timestamp: str
    """As in the line; lines without one have that of the line before."""
    text: bytes


class LogFile:
    """One pod's log, written line by line; past `max_size` bytes it becomes the one before, POD.log.1."""

    def __init__(self, directory: str, pod: str, *, max_size: int = MAX_FILE_SIZE) -> None:
        self._path = Path(state.logs_path(directory), pod + _SUFFIX)
        self._max_size = max_size
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)
        self._size = self._path.stat().st_size

    def write(self, line: bytes) -> None:
        """Append one line, given without its line end; raise `OSError`."""
        if self._size > self._max_size:
            self._rotate()
        rest = line + b"\n"
        while rest:
            # On a full disk a part is taken, and then nothing: the second write raises.
            written = self._file.write(rest)
            self._size += written
            rest = rest[written:]

    def _rotate(self) -> None:
        # By a link, so that there is a POD.log at every moment: to a reader, none means that the pod is gone.
        fresh = self._path.with_name(self._path.name + ".new")
        file = fresh.open("wb", buffering=0)
        _previous(self._path).unlink(missing_ok=True)
        _previous(self._path).hardlink_to(self._path)
        fresh.replace(self._path)
        self._file.close()
        self._file, self._size = file, 0

    def close(self) -> None:
        """Close the file, and keep it."""
        self._file.close()

    def remove(self) -> None:
        """Close the file, and remove it: the pod is gone."""
        self.close()
        self._path.unlink(missing_ok=True)
        _previous(self._path).unlink(missing_ok=True)


def read(directory: str, pods: Collection[str] = (), *, tail: int | None = None) -> list[Line]:
    """Return the lines of these pods (of all, if none is named) in order of time, the last `tail` of each pod."""
    with closing(_Follower(directory, pods)) as follower:
        return _sorted(follower.read(tail))


def follow(directory: str, pods: Collection[str] = (), *, tail: int | None = None) -> Iterator[Line]:
    """Like `read`, and then lines as they are written, by new pods too, until the Service has ended."""
    with closing(_Follower(directory, pods)) as follower:
        lines = follower.read(tail)
        while True:
            yield from _sorted(lines)
            has_ended = not lines and state.find() is None
            lines = follower.read()
            if has_ended and not lines:
                return
            if not lines:
                time.sleep(_POLL_INTERVAL)


def names(directory: str) -> list[str]:
    """Return the pods that have a log, in order of their ordinals."""
    found = [path.name.removesuffix(_SUFFIX) for path in Path(state.logs_path(directory)).glob("*" + _SUFFIX)]
    return sorted(found, key=lambda name: (len(name), name))


def parse(text: bytes) -> dict[str, object] | None:
    """Return a line of a receiver as its event, or None where it is something else."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and isinstance(values.get("event"), str) else None


def render(text: bytes) -> str:
    """Return a line of a receiver for people: time of day (UTC), event, and the values that vary.

    What a terminal could take for a command is escaped, in events and in other lines.
    """
    values = parse(text)
    if values is None:
        decoded = text.decode("utf-8", "backslashreplace")
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded)
    words = [_time_of_day(values.get("timestamp")), _shown(values["event"])]
    if values.get("level") not in (None, "info"):
        words.append(_shown(values["level"]))
    words += [f"{_shown(key)}={_shown(value)}" for key, value in values.items() if key not in _FIXED_KEYS]
    return " ".join(word for word in words if word)


def _shown(value: object) -> str:
    if isinstance(value, str) and value and value.isprintable() and not any(c in ' "=' for c in value):
        return value
    readable = isinstance(value, str) and value.isprintable()
    return json.dumps(value, ensure_ascii=not readable)


def _time_of_day(timestamp: object) -> str:
    if not isinstance(timestamp, str):
        return ""
    clock = timestamp.partition("T")[2].rstrip("Z").partition("+")[0]
    return _shown(clock[:12]) if clock else ""


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _sorted(lines: list[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: line.timestamp)


class _Follower:
    """Reads on in every pod's log; notices logs that are new, gone, or were rotated."""

    def __init__(self, directory: str, pods: Collection[str]) -> None:
        self._directory = directory
        self._pods = pods
        self._tails: dict[str, _Tail] = {}

    def read(self, tail: int | None = None) -> list[Line]:
        """Return what is new: of each pod at most the last `tail` lines."""
        for pod in names(self._directory):
            if pod not in self._tails and (not self._pods or pod in self._pods):
                self._tails[pod] = _Tail(Path(state.logs_path(self._directory), pod + _SUFFIX), pod)
        lines: list[Line] = []
        for pod, log in list(self._tails.items()):
            lines += deque(log.read(), maxlen=tail)
            if log.ended:
                del self._tails[pod]
        return lines

    def close(self) -> None:
        for log in self._tails.values():
            log.close()


class _Tail:
    def __init__(self, path: Path, pod: str) -> None:
        self._path = path
        self._pod = pod
        self._timestamp = ""
        self._rest = b""
        self._file = _open(_previous(path)) or _open(path)

    @property
    def ended(self) -> bool:
        """Whether the log was removed, and read to its end."""
        return self._file is None

    def read(self) -> list[Line]:
        lines: list[Line] = []
        while self._file is not None:
            # Looked at before reading: once there is a newer file, nothing more is written to this one.
            is_last = self._is_current(self._file)
            *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
            lines += map(self._line, whole)
            if is_last:
                break
            self._file.close()
            self._file = _open(self._path)
        return lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _is_current(self, file: BinaryIO) -> bool:
        try:
            return self._path.stat().st_ino == os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def _line(self, text: bytes) -> Line:
        timestamp = (parse(text) or {}).get("timestamp")
        if isinstance(timestamp, str):
            self._timestamp = timestamp
        return Line(self._pod, self._timestamp, text)


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
