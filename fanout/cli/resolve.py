"""`fanout resolve`: the pods of a Service, and how DNS named them."""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import Any

import click

from fanout.cli import EXIT_NO_ENDPOINTS
from fanout.cli.options import option, output_option
from fanout.cli.output import note, print_json, show_library_notes
from fanout.cli.target import Target, find_target, target_options
from fanout.discovery.answer import Answer, why_no_endpoints
from fanout.discovery.endpoints import CONFIRM_AFTER, Change
from fanout.refresher import Refresher


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@target_options
@option("-w", "--watch", is_flag=True, help="Go on, and print each pod that joins or leaves.")
@output_option
def resolve(
    service: str,
    port: str,
    family: str,
    nameserver: str | None,
    allow_loopback: bool,
    watch: bool,
    output: str,
) -> int:
    """Show the pods of a headless Service, how its name was expanded, and what was refused and why.

    Exit codes: 0 pods found, 1 no usable answer, 2 usage, 3 no endpoints.
    """
    target = find_target(service, port, family, nameserver, allow_loopback)
    if target.note:
        note(target.note)
    if watch:
        return _watch(target, output)
    answer = target.resolver.resolve()
    if not answer.endpoints and not answer.refused:
        # The rule of every sender: an empty answer is believed after one confirmation.
        time.sleep(CONFIRM_AFTER)
        answer = target.resolver.resolve()
    if output == "json":
        print_json(_as_json(target, answer))
    else:
        _show(target, answer)
    return 0 if answer.endpoints else EXIT_NO_ENDPOINTS


def _show(target: Target, answer: Answer) -> None:
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


def _as_json(target: Target, answer: Answer) -> dict[str, Any]:
    return {
        "service": target.service.name,
        "name": answer.name,
        "dns_ttl": answer.dns_ttl,
        "endpoints": [str(endpoint) for endpoint in answer.endpoints],
        "refused": [refusal._asdict() for refusal in answer.refused],
        "lookups": [lookup._asdict() for lookup in answer.lookups],
    }


def _watch(target: Target, output: str) -> int:
    # Joins and leaves are this command's output: what the library logs of them would say it twice.
    show_library_notes(logging.WARNING)

    def show(change: Change) -> None:
        moment = time.strftime("%H:%M:%S")
        for word, sign, colour, endpoints in (
            ("joined", "+", "green", change.joined),
            ("left", "-", "red", change.left),
        ):
            for endpoint in endpoints:
                if output == "json":
                    print_json({"time": moment, "change": word, "endpoint": str(endpoint)})
                else:
                    click.echo(f"{moment} {click.style(f'{sign} {endpoint} {word}', fg=colour)}")

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    refresher = Refresher(target.resolver, target.service.name, on_change=show)
    refresher.start()
    stopped.wait()
    refresher.stop()
    return 0
