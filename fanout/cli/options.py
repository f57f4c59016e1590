"""Options that several commands share, and the rule that each has its environment variable."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def option(*declarations: str, **settings: Any) -> Callable[[Command], Command]:
    """Return `click.option` with the environment variable FANOUT_<LONG NAME>, shown in the help."""
    long_name = next(name for name in declarations if name.startswith("--")).partition("/")[0]
    settings.setdefault("envvar", "FANOUT_" + long_name.removeprefix("--").replace("-", "_").upper())
    settings.setdefault("show_envvar", True)
    return click.option(*declarations, **settings)


output_option = option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What to print: lines for people, or JSON.",
)


class FiniteRange(click.FloatRange):
    """A `click.FloatRange` without NaN and the infinities."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number
