"""What commands print beside their results: notes, warnings of the library, JSON."""

from __future__ import annotations

import logging
from typing import Any

import click


class _Notes(logging.Handler):
    """Shows what the library has to say on standard error, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def show_library_notes(level: int = logging.WARNING) -> None:
    """Show the library's log records from `level` on."""
    logger = logging.getLogger("fanout")
    logger.setLevel(level)
    logger.addHandler(_Notes())


def note(sentence: str) -> None:
    """Say something on standard error, on one line."""
    click.echo(f"{click.style('fanout:', fg='yellow')} {sentence}", err=True)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    import json

    click.echo(json.dumps(value, allow_nan=False))
