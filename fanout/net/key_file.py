"""Key files: read at the start and again when they change, so that keys rotate without a restart."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable

from fanout.errors import KeyUnavailable
from fanout.protocol.seal import Keyring

log: logging.Logger = logging.getLogger("fanout")

LOOK_INTERVAL = 1.0
"""Minimum seconds between two reads of the file."""
_SIZE_MAX = 65_536
"""Maximum bytes of a key file: sixteen keys, and a few pages of comments."""
_WHAT_TO_DO = {
    errno.ENOENT: "make one with `fanout keygen`, or mount the Secret that holds it",
    errno.EACCES: "let this user read it",
    errno.EPERM: "let this user read it",
}


class KeyFile:
    """The current keys of a file. Thread-safe.

    Raises `KeyUnavailable` where the file cannot be used at the start. Later, an unusable file (unreadable, empty, half
    written) is logged once and leaves the keys unchanged. The path is resolved anew each time: a Secret's volume swaps
    a symlink. The content is never logged.
    """

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._text = _read(path)
        self._keyring = Keyring.parse(self._text, self._where)
        self._complaint = ""
        self._next_look = clock() + LOOK_INTERVAL

    @property
    def _where(self) -> str:
        return f"the key file {self.path}"

    def keyring(self) -> Keyring:
        """Return the keys, the same object while they are unchanged. Reads the file at most once a second."""
        if self._clock() < self._next_look or not self._lock.acquire(blocking=False):
            return self._keyring
        try:
            self._next_look = self._clock() + LOOK_INTERVAL
            self._look()
        finally:
            self._lock.release()
        return self._keyring

    def _look(self) -> None:
        try:
            text = _read(self.path)
            changed = text != self._text
            keyring = Keyring.parse(text, self._where) if changed else self._keyring
        except KeyUnavailable as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning(
                    "key_file_unusable: %(reason)s; the keys read before stay in use", {"reason": self._complaint}
                )
            return
        self._complaint = ""
        self._text = text
        if keyring != self._keyring:
            self._keyring = keyring
            log.info(
                "key_file_changed: %(path)s holds %(keys)d key(s) now; the first one seals",
                {"path": self.path, "keys": len(keyring.keys)},
            )


def _read(path: str) -> bytes:
    """Return the content of a key file; raise `KeyUnavailable`."""
    try:
        # Non-blocking: a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError:
        raise KeyUnavailable(f"cannot read the key file {path!r}: a path must not contain a null character") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise KeyUnavailable(f"the key file {path} is a directory: name the file in it")
        if not stat.S_ISREG(mode):
            raise KeyUnavailable(f"the key file {path} must be a regular file: it is read again when it changes")
        text = b""
        while len(text) <= _SIZE_MAX and (more := os.read(descriptor, _SIZE_MAX + 1 - len(text))):
            text += more
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(descriptor)
    if len(text) > _SIZE_MAX:
        raise KeyUnavailable(f"the key file {path} must be at most {_SIZE_MAX:,} bytes; it is larger")
    return text


def _unreadable(path: str, error: OSError) -> KeyUnavailable:
    advice = _WHAT_TO_DO.get(error.errno or 0)
    return KeyUnavailable(f"cannot read the key file {path}: {error.strerror}{f'; {advice}' if advice else ''}")
