"""What `fanout send` was given, as values; and what excludes what."""

from __future__ import annotations

import sys
from typing import NamedTuple

import click

from fanout.cli.options import PatienceOptions, SealOptions, is_given
from fanout.cli.target import TargetOptions


class PaceOptions(NamedTuple):
    """How fast messages leave."""

    interval: float | None
    """Seconds from one message to the next, at least."""
    rate: float | None
    """Messages a second."""
    bandwidth: float | None
    """Bits of payload a second, to each pod."""
    burst: int
    settle: float
    """Seconds to wait for refusals of the last messages."""

    @property
    def least_interval(self) -> float:
        """Seconds from one message to the next, at least, where each is confirmed."""
        return 1.0 / self.rate if self.rate else self.interval or 0.0


class SendOptions(NamedTuple):
    """What to send to whom, and how."""

    target: TargetOptions
    pace: PaceOptions
    patience: PatienceOptions
    seal: SealOptions
    message: str | None
    path: str | None
    lines: bool
    repeats: int
    confirm: bool
    numbered: bool
    max_datagram: int | None
    allow_empty: bool
    output: str
    quiet: bool
    dry_run: bool

    @property
    def is_framed(self) -> bool:
        """Whether messages leave in frames."""
        return bool(self.confirm or self.numbered or self.max_datagram or self.seal.key_file)

    @property
    def messages(self) -> int | None:
        """The number of messages; None where it is not known in advance."""
        return None if self.lines else self.repeats

    @property
    def shows_progress(self) -> bool:
        """Whether standard error is a terminal. Not while lines are typed, which a progress bar would disturb."""
        return not (self.lines and sys.stdin.isatty()) and not self.quiet and sys.stderr.isatty()

    def check(self) -> None:
        """Raise `click.UsageError` for options that exclude each other."""
        pace, confirm = self.pace, self.confirm
        if (self.message is not None) + (self.path is not None) + self.lines != 1:
            raise click.UsageError("give one of --message, --file and --lines")
        if self.lines and self.repeats != 1:
            raise click.UsageError("--count and --lines exclude each other: give one")
        if pace.interval is not None and (pace.rate is not None or pace.bandwidth is not None):
            raise click.UsageError("--interval excludes --rate and --bandwidth: give one")
        if confirm and pace.bandwidth is not None:
            raise click.UsageError(
                "--confirm excludes --bandwidth, for it waits for answers: pace it with --rate or --interval"
            )
        for name in ("burst", "settle") if confirm else ("timeout", "retries"):
            if is_given(name):
                why = "and --confirm exclude each other" if confirm else "needs --confirm"
                raise click.UsageError(f"--{name} {why}")
        self.seal.check()
