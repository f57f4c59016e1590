"""Ask as the library does and as the command line does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from fanout.discovery.core.answer import DnsAnswer, Lookup
from fanout.discovery.dns import DnsResolver
from fanout.errors import ResolverUnavailable
from fanout.model import Service
from fanout.sender.sync import Sender
from tests.support.cli import Run, fanout, invoke
from tests.support.waiting import until

PATIENT, HASTY = 60.0, 0.1
"""Lifetimes of a question (seconds): of one that is answered, and of one that nobody answers."""


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
    return invoke("resolve", *target), invoke("send", "--dry-run", "-m", "x", *target)


def first_error(service: Service, nameserver: str, lifetime: float) -> str:
    """Return what a first resolution says that fails."""
    with pytest.raises(ResolverUnavailable) as raised:
        DnsResolver(service, nameserver=nameserver, lifetime=lifetime).resolve()
    return str(raised.value)


class Asker:
    """The resolver of a sender whose nameserver comes and goes: patient, until a test says that nobody answers."""

    def __init__(self, service: Service, **options: Any) -> None:
        self._resolver = partial(DnsResolver, service, **options)
        self._used = self._resolver(lifetime=PATIENT)
        self._question = threading.Lock()

    def resolve(self) -> DnsAnswer:
        with self._question:
            return self._used.resolve()

    @contextlib.contextmanager
    def changing(self, *, lifetime: float) -> Iterator[None]:
        """Change the nameserver in here, while no question is under way; the next ones have this lifetime."""
        with self._question:
            yield
            self._used = self._resolver(lifetime=lifetime)


def count_refreshing() -> int:
    """How many senders ask, or wait to ask again."""
    return sum(thread.name.startswith("fanout-refresh-") for thread in threading.enumerate())


@contextlib.contextmanager
def sending(service: Service, asker: Asker) -> Iterator[Sender]:
    """A sender, until its last question has been answered: its nameserver must live as long."""
    with Sender(service, resolver=asker) as sender:
        yield sender
    until(lambda: not count_refreshing(), "its thread ends")
