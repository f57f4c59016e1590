"""`fanout relay`: the relay app, the same in a pod and on a laptop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

import click

from fanout.cli.interrupt import hold_signals
from fanout.cli.main import LazyGroup
from fanout.cli.options import (
    FiniteRange,
    admin_host_option,
    admin_port_option,
    drain_option,
    gathered,
    interface_timeout_option,
    log_options,
    option,
)
from fanout.cli.target import dns_options, find_local_service
from fanout.net.bind import RECEIVE_BUFFER
from fanout.relay.core.ingress import LIMIT_MAX, Ingress, check

_ORDER = "fanout.cli.commands.relay.order"
_OF_AN_INGRESS = ("listen", "to", "to_port")
_OF_THE_FILE = (*_OF_AN_INGRESS, "allow_source", "limit")


class _Relay(LazyGroup):
    """Works without a subcommand, and remembers the order of options: --to belongs to the --listen before it."""

    summaries: Mapping[str, str] = {"ssdp": "Media server pods (DLNA, UPnP), found and played from the LAN."}
    modules = "fanout.cli.commands.relay_"

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Return the subcommand's context where one is named, without a look at the relay's own options.

        Those in the environment are for the relay without a subcommand, and may be invalid.
        """
        command = self.get_command(None, args[0]) if args else None
        if command is not None:
            return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command.parse_args`."""
        _, rest, order = self.make_parser(ctx).parse_args(list(args))
        ctx.meta[_ORDER] = [each.name for each in order if each.name in _OF_AN_INGRESS]
        super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            self._refuse(ctx, rest[0], [each for each in order if isinstance(each, click.Option)])
        return ctx.args

    def _refuse(self, ctx: click.Context, name: str, options: list[click.Option]) -> NoReturn:
        """Fail for an option that stands before a subcommand, and say where it belongs."""
        command = self.get_command(ctx, name)
        if command is None:
            ctx.fail(f"No such command {name!r}.")
        flag = options[0].opts[-1]
        if any(flag in each.opts for each in command.params):
            ctx.fail(f"{flag} must follow {name}: write {ctx.command_path} {name} {flag} ...")
        ctx.fail(f"{flag} is not an option of {ctx.command_path} {name}: use it with {ctx.command_path} alone")


class IngressOptions(NamedTuple):
    """Where to listen, and where to forward to."""

    service: str
    listen: Sequence[str]
    to: Sequence[str]
    to_port: Sequence[int]
    config: str | None
    allow_source: Sequence[str]
    limit: float | None
    loop_guard: bool

    def ingresses(self) -> tuple[tuple[Ingress, ...], bool]:
        """Return the ingresses and whether to guard against loops; raise `click.UsageError` or `InvalidInput`."""
        context = click.get_current_context()
        if self.config is not None:
            return self._of_file(self.config, context)
        listens = _in_order(context.meta.get(_ORDER, []), self)
        for each in listens:
            if not each.service.strip():
                raise click.UsageError(
                    f"--listen {each.url} must have a Service: add --to SERVICE, or --service for all"
                )
        ingresses = tuple(
            Ingress.parse(
                each.url, service=each.service, to_port=each.to_port, allow_source=self.allow_source, limit=self.limit
            )
            for each in listens
        )
        check(ingresses)
        return ingresses, self.loop_guard

    def _of_file(self, path: str, context: click.Context) -> tuple[tuple[Ingress, ...], bool]:
        for name in _OF_THE_FILE:
            if context.params[name] not in ((), None):
                flag = f"--{name.replace('_', '-')}"
                raise click.UsageError(f"{flag} (FANOUT_{name.upper()}) and --config exclude each other: give one")
        if context.get_parameter_source("service") is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError("--service and --config exclude each other: give one")
        from fanout.relay.config import load

        ingresses, guarded = load(path)
        return ingresses, self.loop_guard or guarded


def _print_schema(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from fanout.relay.config import schema_text

        click.echo(schema_text(), nl=False)
        context.exit()


@click.group(cls=_Relay, invoke_without_command=True, subcommand_metavar="[COMMAND]")
@option(
    "-s",
    "--service",
    default="",
    metavar="NAME",
    help="Headless Service (short name or FQDN), or a list of addresses, for each --listen without a --to.",
)
@option(
    "--listen",
    multiple=True,
    metavar="INGRESS",
    help="Listen here: udp://ADDRESS:PORT, mcast://GROUP:PORT@INTERFACE, mcast://SOURCE,GROUP:PORT@INTERFACE or "
    "broadcast://:PORT@INTERFACE; PORT may be FIRST-LAST. Repeatable.",
)
@click.option("--to", multiple=True, metavar="NAME", help="Service of the --listen before it, instead of --service.")
@option(
    "--to-port",
    multiple=True,
    type=click.IntRange(1, 65_535),
    metavar="PORT",
    help="Pods' port for the first port of the --listen before it; its other ports follow in step. "
    "[default: the port that a datagram came to]",
)
@option(
    "--config",
    metavar="FILE",
    callback=lambda _context, _parameter, path: path or None,
    help="Read the ingresses from this YAML file instead.",
)
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON Schema of that file, and exit.",
)
@option(
    "--allow-source",
    multiple=True,
    metavar="CIDR",
    help="Forward only what comes from this network or address; repeatable. [default: all]",
)
@option(
    "--limit",
    type=FiniteRange(0, LIMIT_MAX, min_open=True),
    metavar="N",
    help="Forward at most N datagrams a second from each source. [default: all]",
)
@option("--loop-guard", is_flag=True, help="Drop what was forwarded within 5 s and comes again from another source.")
@dns_options
@interface_timeout_option
@option(
    "--receive-buffer",
    type=click.IntRange(1, 2**31 - 1),
    default=RECEIVE_BUFFER,
    metavar="BYTES",
    help="Receive buffer to request from the kernel, for each port.",
)
@admin_host_option
@admin_port_option
@drain_option(0.0, "forwarding")
@log_options
@gathered(IngressOptions, "options")
def relay(options: IngressOptions, **settings: Any) -> None:
    """Bring multicast, broadcast and port ranges from outside to every pod of a headless Service.

    Each datagram that comes to an ingress goes, byte for byte, to the same port of every pod, or to --to-port. The
    relay never forwards its own datagrams, and answers nobody. SIGTERM: it forwards what has arrived, and exits with 0.

    For media servers, which have to be found and answered, there is `fanout relay ssdp`.

    In the environment FANOUT_LISTEN holds ingresses separated by spaces, and FANOUT_TO_PORT applies to all of them.

    \b
    fanout relay -s headless-udp --listen mcast://224.0.67.67:5001@eth1
    fanout relay -s cameras --listen udp://0.0.0.0:32546-32549 --listen broadcast://:9999@eth0 --to probes
    fanout relay --config relay.yaml
    """
    ingresses, loop_guard = options.ingresses()
    nameserver, allow_loopback = settings.pop("nameserver"), settings.pop("allow_loopback")
    local = find_local_service(nameserver, [each.service for each in ingresses])
    if local is not None:
        ingresses = tuple(replace(each, service=local.name) for each in ingresses)
        nameserver, allow_loopback = local.nameserver, True
    hold_signals()
    from fanout.daemon.relay.program import RelaySettings, run

    run(
        RelaySettings(
            ingresses=ingresses, loop_guard=loop_guard, nameserver=nameserver, allow_loopback=allow_loopback, **settings
        )
    )


class _ListenOption(NamedTuple):
    """One --listen, with its --to and --to-port."""

    url: str
    service: str
    to_port: int | None


def _in_order(order: Sequence[str], options: IngressOptions) -> list[_ListenOption]:
    """Return each --listen with the --to and --to-port after it; raise `click.UsageError`."""
    service, listen, to, to_port = options.service, options.listen, options.to, options.to_port
    if not listen:
        raise click.UsageError("give at least one --listen INGRESS, or --config FILE")
    if "listen" not in order:  # from the environment: what is given applies to all
        if to or len(to_port) > 1:
            raise click.UsageError("FANOUT_LISTEN takes one --service and at most one --to-port: give --listen instead")
        return [_ListenOption(url, service, to_port[0] if to_port else None) for url in listen]
    default_port = None
    if to_port and "to_port" not in order:
        if len(to_port) > 1:
            raise click.UsageError("FANOUT_TO_PORT must be one port, for every --listen: give --to-port after each")
        (default_port,) = to_port
    listens: list[_ListenOption] = []
    values = {"listen": iter(listen), "to": iter(to), "to_port": iter(to_port)}
    given: set[str] = set()
    for name in order:
        value: Any = next(values[name])
        if name == "listen":
            listens.append(_ListenOption(value, service, default_port))
            given.clear()
            continue
        flag = f"--{name.replace('_', '-')} {value}"
        if not listens:
            raise click.UsageError(f"{flag} must follow the --listen that it is for")
        if name in given:
            raise click.UsageError(f"{flag} is the second for --listen {listens[-1].url}: give one")
        given.add(name)
        listens[-1] = listens[-1]._replace(**{"service" if name == "to" else name: value})
    return listens
