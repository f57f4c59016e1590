"""Handlers of messages: a command, or a user's function."""

from __future__ import annotations

import asyncio
import inspect
import os
import shlex
import shutil
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Protocol

from fanout import errno_text
from fanout.daemon.receiver import command
from fanout.errors import FanoutError, InvalidInput
from fanout.model import Message


class HandlerFailed(Exception):
    """A message was not handled; its text is the reason that the sender gets."""


class Handler(Protocol):
    """Handles messages, one at a time; what it returns is a query's reply."""

    async def handle(self, message: Message) -> object:
        """Handle a message. Raises `HandlerFailed`, or whatever the user's code raises."""

    def close(self) -> None:
        """End what is still running."""


def make_handler(program: str | None, function: str | None, time_limit: float) -> Handler | None:
    """Return the handler of the settings, if any; raise `InvalidInput` or `FanoutError`."""
    if program is not None and function is not None:
        raise InvalidInput("--exec and --handler exclude each other: give one")
    if program is not None:
        return CommandHandler(_parse_command(program), time_limit)
    return None if function is None else FunctionHandler(_find_function(function))


class CommandHandler:
    """Runs a command for each message: its payload on standard input; standard output is a query's reply."""

    def __init__(self, arguments: list[str], time_limit: float) -> None:
        self._arguments = arguments
        self._time_limit = time_limit

    async def handle(self, message: Message) -> bytes:
        """Run the command to its end."""
        ended = await command.run(
            self._arguments,
            message.payload,
            environment={**os.environ, "FANOUT_SOURCE": str(message.source)},
            time_limit=self._time_limit,
            wants_output=message.wants_reply,
        )
        if ended.problem:
            raise HandlerFailed(ended.problem)
        return ended.output

    def close(self) -> None:
        """Nothing: a command that was given up is killed where it is waited for."""


class FunctionHandler:
    """Calls a function, or a coroutine function, in a thread with an event loop of its own.

    One that hangs holds up the messages behind it, and nothing else of the receiver.
    """

    def __init__(self, function: Callable[[Message], object]) -> None:
        self._function = function
        self._loop: asyncio.AbstractEventLoop | None = None

    async def handle(self, message: Message) -> object:
        """Call the function; return what it returns."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="fanout-handler", daemon=True).start()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._call(message), self._loop))

    async def _call(self, message: Message) -> object:
        try:
            result = self._function(message)
            return await result if inspect.isawaitable(result) else result
        except Exception:
            raise
        except BaseException as error:
            # A handler that calls sys.exit() ends neither its thread nor the receiver.
            raise HandlerFailed(errno_text.exception(error)) from error

    def close(self) -> None:
        """Stop the thread; one that hangs ends with the process."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)


def _parse_command(text: str) -> list[str]:
    try:
        arguments = shlex.split(text)
    except ValueError as error:
        raise InvalidInput(f"cannot parse --exec {text!r}: {error}") from None
    if not arguments:
        raise InvalidInput("--exec must name a command")
    if shutil.which(arguments[0]) is None:
        raise FanoutError(
            f"--exec cannot run {arguments[0]!r}: it does not exist, or is not executable "
            "(no shell is used; for one, write: sh -c '...')"
        )
    return arguments


def _find_function(text: str) -> Callable[[Message], object]:
    module_name, colon, path = text.partition(":")
    names = path.split(".")
    if not colon or not all(name.isidentifier() for name in [*module_name.split("."), *names]):
        raise InvalidInput(f"--handler must be MODULE:FUNCTION; got {text!r}")
    folder = os.getcwd()  # noqa: PTH109 - what sys.path holds are strings
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: object = import_module(module_name)
    except (Exception, SystemExit) as error:
        what = errno_text.exception(error)
        raise FanoutError(f"--handler {text}: cannot import module {module_name}: {what}") from error
    for name in names:
        try:
            found = getattr(found, name)
        except AttributeError:
            raise FanoutError(f"--handler {text}: module {module_name} has no {path}") from None
    if not callable(found):
        raise FanoutError(f"--handler {text}: {path} must be a function; got {type(found).__name__}")
    return found
