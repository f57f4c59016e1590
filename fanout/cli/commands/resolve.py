"""`fanout resolve`: the pods of a Service, and how DNS named them."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator

import click

from fanout.cli.options import option, output_option
from fanout.cli.output import EXIT_NO_ENDPOINTS, EXIT_OK, errors_as_json, print_json
from fanout.cli.target import Target, TargetOptions, find_target, target_options
from fanout.discovery.core.answer import DnsAnswer, why_no_endpoints
from fanout.discovery.core.endpoints import Known
from fanout.discovery.refresher import Refresher

_LOOK_INTERVAL = 0.1
"""Seconds: shorter than the least time between two answers."""
_WORDS = {
    "joined": ("+", "joined", "green"),
    "left": ("-", "left", "red"),
    "refused": ("!", "refused", "red"),
    "no_endpoints": ("!", "no endpoints", "yellow"),
    "dns_failed": ("!", "DNS failed", "yellow"),
    "dns_recovered": ("*", "DNS answers again", "green"),
}


@click.command()
@target_options
@option("-w", "--watch", is_flag=True, help="Keep watching, and print each pod that joins or leaves.")
@output_option
def resolve(target: TargetOptions, watch: bool, output: str) -> int:
    """Show the pods of a headless Service, how its name was expanded, and what was refused and why.

    Exit codes: 0 pods found, 1 no usable answer, 2 usage, 3 no endpoints.
    """
    with errors_as_json(output, service=target.service):
        found = find_target(target)
        if watch:
            return _watch(found, output)
        answer = found.resolve()
    if output == "json":
        print_json(answer.as_json(found.service.name))
    else:
        _show(found, answer)
    return EXIT_OK if answer.endpoints else EXIT_NO_ENDPOINTS


def _show(target: Target, answer: DnsAnswer) -> None:
    name = answer.name or target.service.name
    if answer.endpoints:
        dns_ttl = "" if answer.dns_ttl is None else f", DNS TTL {answer.dns_ttl:g} s"
        click.secho(f"{name}: {target.pods(len(answer.endpoints))}{dns_ttl}", bold=True)
    else:
        click.secho(f"{name}: no endpoints: {why_no_endpoints(answer.refused)}", fg="yellow")
    for endpoint in answer.endpoints:
        click.echo(f"  {endpoint}")
    if answer.refused:
        click.secho("refused:", fg="red")
        for refusal in answer.refused:
            click.echo(f"  {refusal.address}: {refusal.reason}")
    if answer.lookups:
        click.echo("asked:")
        for lookup in answer.lookups:
            click.echo(f"  {lookup.name} {lookup.record} at {lookup.nameserver} over {lookup.over}: {lookup.result}")


def _watch(target: Target, output: str) -> int:
    """Print every change of what is known, beginning with nothing."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    refresher = Refresher(target.resolver, target.service.name)
    refresher.start()
    shown = Known()
    while not stopped.wait(_LOOK_INTERVAL):
        known = refresher.known
        if known is not shown:
            for change in _changes(shown, known):
                _show_change(change, output)
            sys.stdout.flush()
            shown = known
    refresher.stop()
    return EXIT_OK


def _show_change(change: dict[str, str], output: str) -> None:
    moment = time.strftime("%H:%M:%S")
    if output == "json":
        print_json({"time": moment, **change})
        return
    sign, words, colour = _WORDS[change["change"]]
    subject = change.get("endpoint") or change.get("address")
    text = " ".join([sign, *([subject] if subject else []), words])
    reason = f": {change['reason']}" if "reason" in change else ""
    click.echo(f"{moment} {click.style(text + reason, fg=colour)}")


def _changes(before: Known, now: Known) -> Iterator[dict[str, str]]:
    """Yield an object for each difference."""
    known, knew = set(now.endpoints), set(before.endpoints)
    for endpoint in now.endpoints:
        if endpoint not in knew:
            yield {"change": "joined", "endpoint": str(endpoint)}
    for endpoint in before.endpoints:
        if endpoint not in known:
            yield {"change": "left", "endpoint": str(endpoint)}
    for address, reason in sorted(now.refused - before.refused):
        yield {"change": "refused", "address": address, "reason": reason}
    if now.settled and not known and (knew or not before.settled):
        yield {"change": "no_endpoints", "reason": why_no_endpoints(now.refused)}
    if now.failure is not None and before.failure is None:
        yield {"change": "dns_failed", "reason": now.failure}
    if now.failure is None and before.failure is not None:
        yield {"change": "dns_recovered"}
