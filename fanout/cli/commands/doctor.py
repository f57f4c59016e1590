"""`fanout doctor`: what works, what does not, and what to change."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import click

from fanout.cli.options import option, output_option, seconds_option
from fanout.cli.output import EXIT_ERROR, EXIT_OK, errors_as_json, print_json
from fanout.cli.target import Target, TargetOptions, find_target, optional_target_options
from fanout.doctor.core.facts import Check, CheckStatus
from fanout.relay.core.ingress import Ingress
from fanout.relay.core.ingress import check as check_ingresses

_COLOURS = {CheckStatus.OK: "green", CheckStatus.WARNING: "yellow", CheckStatus.PROBLEM: "red"}
_INDENT = " " * 9
_WAIT_MAX = 3600
_CLEAR = "\r\033[K"


@click.command()
@optional_target_options
@option(
    "--listen",
    multiple=True,
    metavar="INGRESS",
    help="Wait for a datagram at this ingress of a relay, mcast://224.0.67.67:5001@eth1 for instance; repeatable.",
)
@seconds_option("--wait", 10.0, "Listen at most this long.", most=_WAIT_MAX, above_zero=True)
@output_option
def doctor(target: TargetOptions | None, listen: tuple[str, ...], wait: float, output: str) -> int:
    """Check this host, the pods of a Service (-s), and what a relay would receive (--listen); say what to change.

    Exit codes: 0 all is well, 1 a problem or a warning, 2 usage.
    """
    with errors_as_json(output, service="" if target is None else target.service):
        ingresses = [Ingress.parse(url, service="unused") for url in listen]
        if ingresses:
            check_ingresses(ingresses)
        found = None if target is None else find_target(target)
        checks: list[Check] = []
        for check in _examine(found, ingresses, wait):
            checks.append(check)
            if output == "text":
                _show(check)
    worst = next(
        (each for each in reversed(CheckStatus) if any(check.status is each for check in checks)), CheckStatus.OK
    )
    if output == "json":
        print_json({"status": worst.value, "checks": [asdict(check) for check in checks]})
    return EXIT_OK if worst is CheckStatus.OK else EXIT_ERROR


def _examine(target: Target | None, ingresses: Sequence[Ingress], wait: float) -> Iterator[Check]:
    """Yield what each check comes to; pods and ingresses are looked at meanwhile."""
    from fanout.doctor import host
    from fanout.doctor.core import checks

    progress = _Progress(wait, len(ingresses))
    # Not waited for on the way out: an interrupt ends the command at once.
    pool = ThreadPoolExecutor(2, "fanout-doctor")
    try:
        dropped_before = host.overflows()
        pods = None if target is None else pool.submit(_examine_service, target)
        heard = pool.submit(_listen, ingresses, wait, progress) if ingresses else None
        yield from checks.host(host.gather())
        if pods is not None:
            yield from pods.result()
        if heard is not None:
            progress.show()
            found = heard.result()
            progress.end()
            yield from found
        yield from checks.dropped(dropped_before, host.overflows())
    finally:
        progress.end()
        pool.shutdown(wait=False, cancel_futures=True)


def _examine_service(target: Target) -> list[Check]:
    """Resolve, probe each pod, and measure the paths to them."""
    from fanout.doctor import paths
    from fanout.doctor.core import checks
    from fanout.errors import ResolverUnavailable

    try:
        answer = target.resolve()
    except ResolverUnavailable as error:
        return [checks.unresolved(target.service, str(error))]
    found = paths.reach(answer.endpoints) if answer.endpoints else []
    return [
        *checks.resolved(target.service, answer),
        *checks.reached(found, inside="KUBERNETES_SERVICE_HOST" in os.environ),
        # Where a pod refused, or cannot be reached, the size of its path says nothing.
        *checks.carried(paths.measure([pod for pod in found if not pod.errno])),
    ]


def _listen(ingresses: Sequence[Ingress], wait: float, progress: _Progress) -> list[Check]:
    from fanout.doctor import capture
    from fanout.doctor.core import diagnose_ingress

    return [diagnose_ingress.listened(facts) for facts in capture.hear(ingresses, wait, progress.tell)]


class _Progress:
    """A line on a terminal's standard error while only the listening goes on; nothing of it stays."""

    def __init__(self, wait: float, ingresses: int) -> None:
        self._wait = wait
        self._ingresses = ingresses
        self._lock = threading.Lock()
        self._is_shown = False
        self._is_wanted = sys.stderr.isatty()

    def show(self) -> None:
        """Show it from now on: everything else has been printed."""
        self._is_shown = self._is_wanted

    def tell(self, seconds: float, heard: int) -> None:
        """Show the progress."""
        with self._lock:
            if self._is_shown:
                line = f"listening: {seconds:.0f} of {self._wait:g} s, heard at {heard} of {self._ingresses}"
                click.echo(f"{_CLEAR}{line}", nl=False, err=True)

    def end(self) -> None:
        """Take it away."""
        with self._lock:
            if self._is_shown:
                click.echo(_CLEAR, nl=False, err=True)
            self._is_shown = False


def _show(check: Check) -> None:
    word = click.style(f"{check.status.value:<{len(_INDENT)}}", fg=_COLOURS[check.status], bold=True)
    click.echo(f"{word}{check.check}: {check.sentence}")
    for hint in check.hints:
        click.echo(f"{_INDENT}- {hint}")
    sys.stdout.flush()
