"""Commands to the supervisor: a line of JSON through its Unix socket, and a line of JSON back.

`{"command": "scale", "replicas": 5}` is answered by `{"error": SENTENCE}`, or by a result without `error`.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from fanout.errors import FanoutError
from fanout.local import state
from fanout.local.state import LocalService, LocalServiceError, NotRunning

MAX_LINE = 64 * 1024
"""Bytes of a command; the status of the largest Service is shorter, too."""

Values = dict[str, Any]
Handler = Callable[[Values], Awaitable[Values]]


def request(service: LocalService, command: str, *, timeout: float, **arguments: object) -> Values:
    """Send a command, and return the supervisor's answer within `timeout` seconds.

    Raises `NotRunning` where nobody listens, and `LocalServiceError` with the supervisor's own sentence, or
    where it gives no answer.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(state.control_path(service.directory))
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer = stream.readline()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotRunning from error
    except TimeoutError as error:
        raise LocalServiceError(
            f"the local headless Service did not answer {command!r} within {timeout:.0f} s: "
            f"end it by `kill {service.pid}`"
        ) from error
    except OSError as error:
        raise LocalServiceError(f"the local headless Service was lost during {command!r}: {error.strerror}") from error
    if not answer:
        raise LocalServiceError(f"the local headless Service ended during {command!r}")
    values: Values = json.loads(answer)
    if "error" in values:
        raise LocalServiceError(values["error"])
    return values


class ControlServer:
    """Listens on the control socket; `handle` gets each command, and its result or its error goes back."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._conversations: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @classmethod
    async def start(cls, directory: str, handle: Handler) -> ControlServer:
        """Listen in the state directory; raise `OSError`."""
        server = cls(handle)
        server._server = await asyncio.start_unix_server(server._accept, state.control_path(directory), limit=MAX_LINE)
        return server

    async def close(self) -> None:
        """Stop listening, and let the commands under way be answered."""
        if self._server is not None:
            self._server.close()
        if self._conversations:
            _, unanswered = await asyncio.wait(self._conversations, timeout=1)
            for conversation in unanswered:
                conversation.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.ensure_future(self._converse(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            try:
                answer = await _answer(reader, self._handle)
                if answer is not None:
                    writer.write(json.dumps(answer).encode() + b"\n")
                    await writer.drain()
            finally:
                writer.close()


async def _answer(reader: asyncio.StreamReader, handle: Handler) -> Values | None:
    try:
        line = await reader.readline()
        if not line:
            return None  # only a check whether the supervisor is alive
        command = json.loads(line)
    except ValueError:
        return {"error": "the command is not a line of JSON"}
    if not isinstance(command, dict):
        return {"error": "the command is not a JSON object"}
    try:
        return await handle(command)
    except (FanoutError, OSError) as error:
        return {"error": str(error)}
