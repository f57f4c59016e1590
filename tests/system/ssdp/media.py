"""Films, music and pictures that media servers take, with tails of random bytes: no two are the same.

A .wav is made site: media servers look no further than its head. The others are made by ffmpeg.
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from tests.support.needs import require

MIB = 1 << 20
_SYNTHETIC = {
    ".mp4": ("-f", "lavfi", "-i", "testsrc=duration=3:size=160x120:rate=10", "-pix_fmt", "yuv420p"),
    ".mp3": ("-f", "lavfi", "-i", "sine=duration=20"),
    ".jpg": ("-f", "lavfi", "-i", "testsrc=size=640x480,noise=alls=60", "-frames:v", "1", "-update", "1"),
}


@dataclass(frozen=True)
class Medium:
    """A file in a pod's library."""

    path: Path

    @cached_property
    def bytes(self) -> bytes:
        return self.path.read_bytes()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.bytes).hexdigest()


@dataclass(frozen=True)
class Library:
    """A folder of media."""

    folder: Path

    def add(self, name: str, *, tail: int = 16) -> Medium:
        """Make a file of the kind that its suffix says, with a tail of random bytes that no player reads."""
        path = self.folder / name
        if path.suffix == ".wav":
            head = _wav(tail)
        else:
            head = encode(path.suffix)
            head += (tail + 8).to_bytes(4, "big") + b"free" if path.suffix == ".mp4" else b""
        path.write_bytes(head + os.urandom(tail))
        return Medium(path)

    def __iter__(self) -> Iterator[Medium]:
        return (Medium(path) for path in sorted(self.folder.iterdir()))

    @property
    def digests(self) -> set[str]:
        """The SHA-256 of each file."""
        return {medium.sha256 for medium in self}


@cache
def encode(suffix: str) -> bytes:
    """Let ffmpeg make a film, a sound or a picture."""
    require("ffmpeg")
    with tempfile.TemporaryDirectory(prefix="fanout-dlna-") as folder:
        path = Path(folder) / f"made{suffix}"
        made = subprocess.run(
            ["ffmpeg", "-v", "error", *_SYNTHETIC[suffix], str(path)], capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        return path.read_bytes()


def _wav(size: int) -> bytes:
    """Return the head of music of so many bytes: two channels of 16 bits, 48 kHz."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 48_000, 192_000, 4, 16)
    return struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE") + form + struct.pack("<4sI", b"data", size)


def library(folder: Path) -> Library:
    folder.mkdir()
    return Library(folder)
