"""What commands print beside their results: notes, warnings of the library, JSON."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from fanout.cli.main import exit_code
from fanout.errors import FanoutError


class _Notes(logging.Handler):
    """Shows what the library has to say on standard error, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def show_library_notes() -> None:
    """Show the library's warnings."""
    logger = logging.getLogger("fanout")
    logger.setLevel(logging.WARNING)
    logger.addHandler(_Notes())


def note(sentence: str) -> None:
    """Say something on standard error, on one line."""
    click.echo(f"{click.style('fanout:', fg='yellow')} {sentence}", err=True)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    import json

    click.echo(json.dumps(value, allow_nan=False))


def milliseconds(seconds: float | None) -> str:
    """Return seconds as milliseconds with three digits that count."""
    if seconds is None:
        return "-"
    value = seconds * 1000
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


@contextmanager
def errors_as_json(output: str, **what: str) -> Iterator[None]:
    """Print an error that ends the command as an object too, where JSON was asked for; `what` the command was about."""
    try:
        yield
    except (FanoutError, click.UsageError) as error:
        if output == "json":
            print_json({**what, "error": str(error), "exit_code": exit_code(error)})
        raise
