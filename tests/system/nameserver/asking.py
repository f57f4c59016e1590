"""Ask as the library does and as the command line does."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from fanout.discovery.answer import Lookup
from tests.support.cli import Run, fanout


def together(*commands: Sequence[str]) -> list[Run]:
    """Run several `fanout` at the same time, and return what each came to."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda arguments: fanout(*arguments), commands))


def over(lookups: Sequence[Lookup]) -> list[tuple[str, str, str]]:
    """Return what was asked, how, and what came of it."""
    return [(lookup.record, lookup.over, lookup.result) for lookup in lookups]


def resolve_and_dry_run(nameserver: str, service: str, *options: str) -> tuple[Run, Run]:
    """Run `fanout resolve` and `fanout send --dry-run`, both with JSON output."""
    target = ["-s", service, "--nameserver", nameserver, "-o", "json", *options]
    resolve, dry_run = together(["resolve", *target], ["send", "--dry-run", "-m", "x", *target])
    return resolve, dry_run
