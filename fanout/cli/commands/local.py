"""`fanout local`: a headless Service with receivers on this machine, without root, Docker or a cluster."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from fanout.cli.options import option, output_option, seconds_option
from fanout.cli.output import EXIT_OK, aligned, plural, print_json
from fanout.local.launch import (
    MAX_DRAIN,
    MAX_REPLICAS,
    STATUS_TIMEOUT,
    STOP_TIMEOUT,
    LocalSettings,
    describe_end,
    launch,
    ready_timeout,
)
from fanout.local.state import LocalService, LocalServiceError, running
from fanout.model import DEFAULT_PORT

if TYPE_CHECKING:
    from fanout.local.control import Values
    from fanout.local.logs import Line

_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_red")
_REPLICAS = click.IntRange(0, MAX_REPLICAS)


@click.group()
def local() -> None:
    """Run a headless Service with receivers on this machine: no root, no Docker, no cluster.

    A small nameserver on 127.0.0.1 answers for the Service as CoreDNS does, and each receiver is a process with
    an address of its own, 127.0.0.11 and up. `fanout send -s headless-udp` finds it by itself.

    \b
    fanout local up                    # in one terminal
    fanout send -s headless-udp -m hi  # in another
    fanout local scale 5
    """


@local.command()
@option("-r", "--replicas", type=_REPLICAS, default=2, metavar="N", help="Start N receivers.")
@option("-p", "--port", type=click.IntRange(1, 65_535), default=DEFAULT_PORT, help="UDP port of the receivers.")
@seconds_option("--drain", 0.5, "Receivers go on receiving for this long after SIGTERM.", most=MAX_DRAIN)
@option("-d", "--detach", is_flag=True, help="Return when all receivers are ready, and leave them running.")
@option("--pid", type=click.IntRange(min=1), help="Go down when this process ends: --pid $$ in a script.")
def up(replicas: int, port: int, drain: float, detach: bool, pid: int | None) -> int:
    """Start the Service, and show its receivers' logs until Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    watched = [] if detach else [os.getpid()]
    watched += [] if pid is None else [pid]
    supervisor, service = launch(LocalSettings(replicas, port, drain, tuple(watched)))
    _introduce(service, detach=detach)
    return EXIT_OK if detach else _stay(supervisor, service)


@local.command()
@click.argument("replicas", type=_REPLICAS, metavar="REPLICAS")
def scale(replicas: int) -> None:
    """Scale to that many receivers; return when all are ready."""
    from fanout.local.control import request

    service = running()
    before = _endpoints(request(service, "status", timeout=STATUS_TIMEOUT))
    after = _endpoints(request(service, "scale", replicas=replicas, timeout=ready_timeout(replicas) + STOP_TIMEOUT))
    for name, endpoint in after.items():
        if name not in before:
            click.echo(f"joined: {name} {endpoint}")
    for name, endpoint in before.items():
        if name not in after:
            click.echo(f"left: {name} {endpoint}")
    click.secho(f"{service.service} has {plural(replicas, 'ready pod')}", fg="green")


@local.command()
@click.argument("pod", required=False)
@option("-f", "--follow", is_flag=True, help="Follow: show new lines as they are written.")
@option("--tail", type=click.IntRange(min=0), metavar="N", help="Start with the last N lines of each pod.")
@output_option
def logs(pod: str | None, follow: bool, tail: int | None, output: str) -> None:
    """Show the logs of all pods in order of time, or those of POD."""
    from fanout.local import logs as pod_logs

    directory = running().directory
    pods = pod_logs.names(directory)
    if pod is not None and pod not in pods:
        known = f"the pods are {', '.join(pods)}" if pods else "there are no pods now"
        raise LocalServiceError(f"there are no logs of pod {pod!r}: {known}")
    read = pod_logs.follow if follow else pod_logs.read
    lines = read(directory, [] if pod is None else [pod], tail=tail)
    if output == "json":
        for line in lines:
            click.echo(line.text)
    else:
        _show(lines, prefixed=pod is None)


@local.command()
@output_option
def status(output: str) -> None:
    """Show the Service, its nameserver and its pods."""
    from fanout.local.control import request

    values = request(running(), "status", timeout=STATUS_TIMEOUT)
    if output == "json":
        print_json(values)
        return
    pods = values["pods"]
    ready = sum(pod["ready"] for pod in pods)
    click.echo(f"{values['name']}: {ready} of {plural(len(pods), 'pod')} ready")
    click.echo(f"nameserver {values['nameserver']}, supervisor {values['pid']}, state in {values['directory']}")
    rows = [("NAME", "READY", "RESTARTS", "AGE", "ADDRESS", "PID")]
    rows += [
        (
            pod["name"],
            "yes" if pod["ready"] else "no",
            str(pod["restarts"]),
            _age(pod["uptime"]) if pod["ready"] else "-",
            f"{pod['address']}:{values['port']}",
            str(pod["pid"] or "-"),
        )
        for pod in pods
    ]
    for line in aligned(rows) if pods else []:
        click.echo(line)
    for pod in pods:
        if pod["problem"]:
            click.secho(f"{pod['name']}: {pod['problem']}", fg="yellow")


@local.command()
def down() -> None:
    """End the Service: receivers, nameserver, logs."""
    from fanout.local.control import request

    service = running()
    request(service, "down", timeout=STOP_TIMEOUT)
    click.echo(f"{service.service} is down")


@local.command(short_help="Play the whole story in a few seconds.")
def demo() -> None:
    """Play the whole story in a few seconds: 2 receivers, send, logs, scale to 5, send, logs.

    It has a Service of its own, beside one that may be running. Exit code 0 means that all five receivers logged
    the second message.
    """
    from fanout.local.demo import play

    play()


def _stay(supervisor: subprocess.Popen[bytes], service: LocalService) -> int:
    """Show the logs until the Service has ended; end it at Ctrl-C, and whatever happens."""
    from fanout.local.logs import follow

    has_stopped = False

    def stop(*_: object) -> None:
        nonlocal has_stopped
        has_stopped = True
        supervisor.terminate()

    # Not by an exception: the logs are shown to their end, as the receivers drain.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        _show(follow(service.directory), prefixed=True)
    except BaseException:
        supervisor.terminate()
        raise
    finally:
        code = supervisor.wait()
    if has_stopped and code == -signal.SIGTERM:
        code = 0  # a second SIGTERM came just before its exit
    if code:
        raise LocalServiceError(
            f"the supervisor of {service.service} (process {service.pid}) {describe_end(code)}; "
            "its receivers have ended with it"
        )
    click.echo(f"{service.service} is down")
    return EXIT_OK


def _introduce(service: LocalService, *, detach: bool) -> None:
    from fanout.local.control import request

    endpoints = _endpoints(request(service, "status", timeout=STATUS_TIMEOUT))
    click.secho(f"{service.name}: {plural(len(endpoints), 'pod')} ready", fg="green")
    for name, endpoint in endpoints.items():
        click.echo(f"  {name}  {endpoint}")
    host, _, port = service.nameserver.partition(":")
    options = "" if service.port == DEFAULT_PORT else f" -p {service.port}"
    send = f"fanout send -s {service.service}{options} -m hi"
    hints = [
        (send, f"finds nameserver {service.nameserver} by {service.directory}/local.conf"),
        ("fanout local scale 5", "also: logs [POD] [-f], status, down"),
        (f"dig @{host} -p {port} {service.name}", "any resolver can ask"),
    ]
    if os.environ.get("FANOUT_LOCAL_DIR") and not detach:
        hints.insert(0, (f"export FANOUT_LOCAL_DIR={shlex.quote(service.directory)}", "as it is set here"))
    width = len(send)
    click.echo("Next:" if detach else "From another terminal:")
    for command, what in hints:
        click.echo(f"  {command:<{width}}  # {what}")
    if not detach:
        click.echo("Ctrl-C ends it. Logs:")


def _show(lines: Iterable[Line], *, prefixed: bool) -> None:
    from fanout.local.logs import render

    for line in lines:
        ordinal = line.pod.rpartition("-")[2]
        colour = _COLOURS[int(ordinal) % len(_COLOURS)] if ordinal.isdecimal() else None
        prefix = click.style(f"{line.pod} | ", fg=colour) if prefixed else ""
        click.echo(prefix + render(line.text))


def _endpoints(status: Values) -> dict[str, str]:
    return {pod["name"]: f"{pod['address']}:{status['port']}" for pod in status["pods"]}


def _age(seconds: float) -> str:
    whole = int(seconds)
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if whole >= size:
            return f"{whole // size}{unit}"
    return f"{whole}s"
