"""A terminal that remembers what a `fanout` in it printed, and what it would show."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from tests.support.cli import FANOUT, call, environment
from tests.support.waiting import PATIENCE, until

_TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


class Terminal:
    """A `fanout` in a terminal of its own."""

    def __init__(self, arguments: tuple[str, ...], size: tuple[int, int], variables: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.process = subprocess.Popen(
            [*FANOUT, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**variables)
        )
        os.close(theirs)
        self.printed = bytearray()
        self._wake, self._woken = os.pipe()[::-1]
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # its other end is closed: the process has ended
            while self._woken not in select.select([self._ours, self._woken], [], [])[0]:
                self.printed += os.read(self._ours, 65_536)
        os.close(self._ours)

    @property
    def lines(self) -> list[str]:
        """What a terminal with enough lines shows."""
        return shown(bytes(self.printed))

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until that holds; fail at once where the process has ended before."""

        def holds() -> bool:
            if condition():
                return True
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.printed!r}"
            return False

        until(holds, lambda: repr(self.printed))

    def stop(self, number: int) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        """Return the exit code, once it has ended and all that it printed is known."""
        code = self.process.wait(timeout=PATIENCE)
        self._reader.join(timeout=PATIENCE)
        return code

    def hang_up(self) -> None:
        """Go away, as a connection does that breaks."""
        os.write(self._wake, b"x")
        self._reader.join()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.hang_up()
        os.close(self._wake)
        os.close(self._woken)


@contextmanager
def terminal(*arguments: str, size: tuple[int, int] = (30, 140), **variables: str) -> Iterator[Terminal]:
    """Run `fanout` in a terminal of so many lines and columns beside the test."""
    opened = Terminal(arguments, size, {"TERM": "xterm-256color", **variables})
    try:
        yield opened
    finally:
        opened.close()


class Screen:
    """A terminal for what runs in this process: `file` is its standard output and error."""

    def __init__(self, columns: int = 120, lines: int = 24) -> None:
        self.variables = {"TERM": "xterm", "COLUMNS": str(columns), "LINES": str(lines)}
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.file = os.fdopen(theirs, "w", encoding="utf-8")
        self._printed = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # its other end is closed
            while block := os.read(self._ours, 65_536):
                self._printed += block
        os.close(self._ours)

    @property
    def text(self) -> str:
        """What was printed, as far as it is known by now."""
        return self._printed.decode(errors="ignore")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()
        self._reader.join()


def on_screen(*arguments: str, columns: int = 140) -> tuple[int, str]:
    """Run `fanout` in this process on a terminal of so many columns; return its exit code and what it printed."""
    with Screen(columns) as screen:
        code = call(arguments, screen.file, screen.file, variables=screen.variables)
    return code, screen.text.replace("\r\n", "\n")


def shown(printed: bytes) -> list[str]:
    """Return the lines that a terminal shows; fail where a sequence is not among those that a table needs."""
    lines, row, column = [""], 0, 0
    # Of a character that has come in part, the rest is to come.
    for token in _TOKEN.finditer(codecs.getincrementaldecoder("utf-8")().decode(printed)):
        text = token[0]
        if text == "\r":
            column = 0
        elif text == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token[2] is None:
            lines[row] = lines[row].ljust(column)[:column] + text + lines[row][column + len(text) :]
            column += len(text)
        elif token[2] == "A":
            row -= int(token[1])
        elif token[2] == "K":
            lines[row] = ""
        else:
            assert token[2] in ("m", "h", "l"), text
            assert token[2] == "m" or token[1] == "?25", text
    return lines
