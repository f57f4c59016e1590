"""The state directory, for the process that owns it: made, locked, written, and removed."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from fanout.local import state
from fanout.local.state import LocalService, LocalServiceError

_MAX_SOCKET_PATH = 107
"""Bytes: of the 108 in `sockaddr_un` (unix(7)) one is the closing zero."""


class StateDirectory:
    """The state directory, held by this process until `release()`."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def take(cls, path: str) -> StateDirectory:
        """Make the state directory, lock it for this process, and empty it.

        Raises `LocalServiceError` where it cannot be made, is not the user's alone, or is another supervisor's.
        """
        while True:
            _make(path)
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise LocalServiceError(
                    f"a local headless Service is running already (state in {path}): use it, "
                    "end it by `fanout local down`, or set FANOUT_LOCAL_DIR to another directory"
                ) from None
            if _is_at(lock, path):
                _empty(path)
                return cls(path, lock)
            os.close(lock)  # of a directory that its last owner has just removed

    def publish(self, service: LocalService) -> None:
        """Write down how the Service is found: `state.find()` returns it from now on."""
        values = {**service._asdict(), "search": " ".join(service.search)}
        del values["directory"]
        path = Path(state.file_path(self.path))
        fresh = _fresh(path)
        fresh.write_text("".join(f"{keyword} {value}\n" for keyword, value in values.items()))
        fresh.replace(path)

    def release(self) -> None:
        """Remove what the Service left there, and the directory if nothing else is in it."""
        _empty(self.path)
        with suppress(OSError):
            Path(self.path).rmdir()
        os.close(self._lock)


def has_room(directory: str) -> bool:
    """Return whether a state directory's path is short enough for the Unix socket in it (man 7 unix)."""
    return len(os.fsencode(state.control_path(directory))) <= _MAX_SOCKET_PATH


def _make(directory: str) -> None:
    if not has_room(directory):
        raise LocalServiceError(
            f"the path of the state directory {directory} is too long for a Unix socket in it "
            f"(at most {_MAX_SOCKET_PATH} bytes): set FANOUT_LOCAL_DIR to a shorter one"
        )
    try:
        Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
        complaint = state.complaint_about(directory)
    except FileExistsError:
        complaint = "is not a directory"
    except OSError as error:
        complaint = f"cannot be made ({error.strerror})"
    if complaint is None and not os.access(directory, os.W_OK | os.X_OK):
        complaint = "is not writable"
    if complaint is not None:
        raise LocalServiceError(
            f"the state directory {directory} {complaint}: "
            "set FANOUT_LOCAL_DIR to a directory that is yours alone, or that does not exist yet"
        )


def _empty(directory: str) -> None:
    """Remove what a Service left; what it did not put there stays."""
    logs = Path(state.logs_path(directory))
    conf = Path(state.file_path(directory))
    control, errors = state.control_path(directory), state.supervisor_log_path(directory)
    for path in (conf, _fresh(conf), Path(control), Path(errors), *logs.glob("*")):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        logs.rmdir()


def _fresh(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
