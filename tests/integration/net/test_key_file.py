"""A key file that threads share, and that is replaced meanwhile."""

from __future__ import annotations

import base64
import threading
from pathlib import Path

import pytest

from fanout.net.key_file import KeyFile

OLD, NEW = bytes(range(32)), bytes(range(100, 132))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "key"
    made.write_bytes(encoded(OLD))
    return made


def encoded(key: bytes) -> bytes:
    return base64.b64encode(key)


def test_threads_share_a_key_file(path: Path) -> None:
    """Every look is due at once here, and the file is replaced all the time."""
    ticks = iter(range(10**9))
    keys = KeyFile(str(path), clock=lambda: float(next(ticks)))
    seen: set[tuple[bytes, ...]] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(keys.keyring().keys)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        new = path.with_suffix(".new")
        new.write_bytes(encoded(OLD if turn % 2 else NEW))
        new.rename(path)
    done.set()
    for thread in threads:
        thread.join()
    assert seen <= {(OLD,), (NEW,)}
    assert keys.keyring().keys == (OLD,)
