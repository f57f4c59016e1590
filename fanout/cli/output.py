"""Output of commands: exit codes, errors, notes, JSON, columns, and values in words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from fanout.errors import FanoutError, InvalidInput, NoEndpoints

if TYPE_CHECKING:
    from rich.console import Console

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_NO_ENDPOINTS = 3
EXIT_INCOMPLETE = 4
EXIT_INTERRUPTED = 130


def exit_code(error: BaseException) -> int:
    """Return the documented exit code of an error."""
    if isinstance(error, (click.UsageError, InvalidInput)):
        return EXIT_USAGE
    return EXIT_NO_ENDPOINTS if isinstance(error, NoEndpoints) else EXIT_ERROR


def color() -> bool | None:
    """Return False where NO_COLOR is set (no-color.org), None to let click detect a terminal."""
    return False if os.environ.get("NO_COLOR") else None


def complain(sentence: str) -> None:
    """Print an error on standard error, on one line."""
    click.echo(f"{click.style('fanout:', fg='red', bold=True)} {sentence}", err=True, color=color())


def note(sentence: str) -> None:
    """Print a note on standard error, on one line."""
    click.echo(f"{click.style('fanout:', fg='yellow')} {sentence}", err=True)


def show_library_notes() -> None:
    """Show the library's warnings on standard error, a line each."""
    import logging

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(record.getMessage())

    logger = logging.getLogger("fanout")
    logger.setLevel(logging.WARNING)
    logger.addHandler(Notes())


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    import json

    click.echo(json.dumps(value, allow_nan=False))


@contextmanager
def errors_as_json(output: str, **what: str) -> Iterator[None]:
    """Print an error that ends the command as an object, too, if `output` is `json`; `what` are its other members."""
    try:
        yield
    except (FanoutError, click.UsageError) as error:
        if output == "json":
            print_json({**what, "error": str(error), "exit_code": exit_code(error)})
        raise


def console(*, err: bool) -> Console:
    """Return a console that prints texts as they are: in markup [fd00::1]:12000 would be a tag."""
    from rich.console import Console

    return Console(stderr=err, markup=False, emoji=False, highlight=False)


def aligned(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """Return a line a row, in columns that a program can split at white space; `numbers` stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if numbers and index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def milliseconds(seconds: float | None) -> str:
    """Return seconds as milliseconds with three significant digits."""
    if seconds is None:
        return "-"
    value = seconds * 1000
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def plural(count: int, noun: str) -> str:
    """Return `1 pod` or `2 pods`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
