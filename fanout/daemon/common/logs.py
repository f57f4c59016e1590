"""Structured logs: one line an event, even for hostile payloads.

The event's name is a constant; payloads and addresses are values. JSON escapes line breaks and control
characters, the console renderer prints values as Python literals: neither can break a line or reach the terminal.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Mapping

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import JSONRenderer, TimeStamper, add_log_level, dict_tracebacks
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from fanout.errors import FanoutError

_DOWNWARD_API = {"pod": "POD_NAME", "namespace": "POD_NAMESPACE", "pod_ip": "POD_IP", "node": "NODE_NAME"}


_PIPE_BUF = 4096  # bytes that a writable pipe takes without blocking (man 7 pipe)


class LogStream:
    """Where log lines go, a `write` each.

    Until the app has `started`, a line that cannot be written raises `FanoutError` in the thread that made the stream:
    better to fail then than to receive for nobody; lines of other threads wait. Later, a line that cannot be written is
    counted, and standard error says so once: datagrams are still taken. So is a line that nobody reads for `patience`
    seconds (None waits for ever), until somebody reads again.
    """

    def __init__(self, path: str | None, *, patience: float | None = None) -> None:
        self.lost_lines: int = 0
        self._starter: int | None = threading.get_ident()
        """The thread that starts the app; None once it has."""
        self._early: list[str] = []
        self._lock = threading.Lock()
        """Held while a thread looks whether the app has started."""
        self._name = path or "standard output"
        self._path = path
        self._divert: Callable[[str], bool] | None = None
        try:
            # Unbuffered: what could not be written must not come back with the next line, or at exit.
            self._file = io.FileIO(path, "a") if path is not None else io.FileIO(1, "w", closefd=False)
        except OSError as error:
            raise FanoutError(self._what(error)) from None
        self._patience = None if patience is None else patience * 1000
        self._writing = threading.RLock()
        """Held while a line is written: one thread at a time may poll, and lines stay whole."""
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLOUT)
        self._is_stalled = False
        """Whether the last line could not be written because nobody read."""
        self._is_torn = False
        """Whether only the beginning of a line was written."""

    @property
    def is_terminal(self) -> bool:
        """Whether it is a terminal."""
        return self._file.isatty()

    def started(self) -> None:
        """Write what has waited, and from now on drop lines instead of failing."""
        with self._lock:
            self._starter = None
            early, self._early = self._early, []
        for line in early:
            self.write(line)

    def divert(self, take: Callable[[str], bool]) -> None:
        """Offer lines for standard output to `take` first, which returns whether it shows them itself."""
        if self._path is None:
            self._divert = take

    def write(self, line: str) -> None:
        """Write one line."""
        with self._lock:
            if self._starter not in (None, threading.get_ident()):
                self._early.append(line)
                return
        if self._divert is not None and self._divert(line):
            return
        try:
            with self._writing:
                self._put(f"{line}\n".encode("utf-8", "backslashreplace"))
        except OSError as error:
            if self._starter is not None:
                raise FanoutError(self._what(error)) from None
            self.lost_lines += 1
            if self.lost_lines == 1:
                with contextlib.suppress(OSError):  # standard error is gone as well: the metric tells
                    print(f"fanout: log lines are lost from now on: {self._what(error)}", file=sys.stderr, flush=True)

    def _put(self, rest: bytes) -> None:
        """Write bytes; raise OSError where they cannot be, or where nobody reads what was written before."""
        if self._is_torn:
            rest = b"\n" + rest
        whole = len(rest)
        while rest:
            if not self._poll.poll(0 if self._is_stalled else self._patience):
                self._is_stalled = True
                self._is_torn = self._is_torn or len(rest) < whole
                raise OSError(errno.EAGAIN, "nobody reads it")
            rest = rest[self._file.write(rest[:_PIPE_BUF]) or 0 :]
        self._is_stalled = self._is_torn = False

    def _what(self, error: OSError) -> str:
        return f"cannot write the log to {self._name}: {error.strerror}"


def identity() -> dict[str, str]:
    """Return this pod's identity from the downward API; the host's name outside Kubernetes."""
    known = {key: os.environ[variable] for key, variable in _DOWNWARD_API.items() if os.environ.get(variable)}
    return {"pod": socket.gethostname(), **known}


def configure(stream: LogStream, log_format: str, level: str) -> FilteringBoundLogger:
    """Configure structlog and the library's records alike; return the app's logger.

    `log_format` is `json`, `console`, or `auto`: console on a terminal.
    """
    processors: list[Processor] = [add_log_level, TimeStamper(fmt="iso", utc=True), _lead]
    if log_format == "console" or (log_format == "auto" and stream.is_terminal):
        colors = stream.is_terminal and not os.environ.get("NO_COLOR")
        processors.append(ConsoleRenderer(colors=colors, repr_native_str=True, exception_formatter=plain_traceback))
    else:
        processors += [dict_tracebacks, JSONRenderer()]
    minimum = getattr(logging, level.upper())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(minimum),
        logger_factory=lambda *_: _LineLogger(stream),
        cache_logger_on_first_use=True,
    )
    logger: FilteringBoundLogger = structlog.get_logger(**identity())
    library = logging.getLogger("fanout")
    library.setLevel(minimum)
    library.handlers = [_LibraryRecords(logger)]
    return logger


def _lead(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put timestamp, level and event first."""
    return {"timestamp": event.pop("timestamp"), "level": event.pop("level"), "event": event.pop("event"), **event}


class _LineLogger:
    """The end of the structlog chain: every level writes its rendered line."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        self._stream.write(line)

    debug = info = warning = error = critical = exception = msg


class _LibraryRecords(logging.Handler):
    """Passes the library's records on: `event: text with %(values)s` becomes the event and its values."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        event, _, _ = str(record.msg).partition(":")
        values = dict(record.args) if isinstance(record.args, Mapping) else {}
        try:
            try:
                self._logger.log(record.levelno, event, **values, exc_info=record.exc_info)
            except FanoutError:
                raise
            except BaseException:
                if not record.exc_info:
                    raise
                # It shows an exception of the user's, whose own code may raise anything: without it, then.
                self._logger.log(record.levelno, event, **values)
        except FanoutError:
            raise  # while it is starting
        except Exception:
            self.handleError(record)
