"""The command line: one module a command, imported when the command is run.

Exit codes: 0 all sent (or confirmed), 1 error, 2 usage, 3 no endpoints, 4 some pods refused it, could not be sent
to, or did not answer where they should, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import NoReturn

import click

import fanout
from fanout.cli.output import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, color, complain, exit_code
from fanout.errors import FanoutError

_COMMANDS = {
    "send": "Send a message to every pod of a headless Service.",
    "query": "Query every pod of a headless Service, and print its reply.",
    "resolve": "Show the pods of a headless Service, and how DNS named them.",
    "bench": "Measure rate, loss, order and latency to every pod of a headless Service.",
    "receive": "Receive datagrams and log each one: the receiver that runs in the pods.",
    "relay": "Bring multicast, broadcast and port ranges from outside to every pod; media servers to the LAN.",
    "ssdp": "Look for UPnP and DLNA devices on the LAN.",
    "healthcheck": "Check whether a receiver or a relay on this host is ready: an exec probe.",
    "doctor": "Check this host, the path to every pod, and what a relay would receive; say what to change.",
    "keygen": "Make a key for sealed messages.",
    "local": "Run a headless Service with receivers on this machine.",
}


class LazyGroup(click.Group):
    """Imports a command's module only when that command is used."""

    summaries: Mapping[str, str] = _COMMANDS
    """What its help says of each command."""
    modules = "fanout.cli.commands."
    """What the names of the commands' modules begin with."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group.list_commands`."""
        return list(self.summaries)

    def get_command(self, ctx: click.Context | None, cmd_name: str) -> click.Command | None:
        """See `click.Group.get_command`."""
        if cmd_name not in self.summaries:
            return None
        command: click.Command = getattr(import_module(self.modules + cmd_name), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Group.format_commands`."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fanout.__version__, prog_name="fanout", message="%(prog)s %(version)s")
def cli() -> None:
    """UDP broadcast for clusters: a copy of each datagram to every pod of a headless Service.

    Every option can also be given as an environment variable, FANOUT_ and its name: FANOUT_PORT=12000.

    Exit codes: 0 all sent (or confirmed), 1 error, 2 usage, 3 no endpoints, 4 some pods refused it, could not be
    sent to, or did not answer where they should, 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: each error is one sentence on standard error, no traceback."""
    try:
        code = cli.main(arguments, prog_name="fanout", standalone_mode=False, color=color())
        sys.stdout.flush()
    except click.exceptions.Exit as request:
        code = request.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of standard output went away (`| head`).
        code = EXIT_ERROR
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = EXIT_USAGE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "fanout"
        complain(f"{' '.join(error.format_message().split())} (see {command} --help)")
        code = EXIT_USAGE
    except (FanoutError, click.ClickException) as error:
        complain(str(error))
        code = exit_code(error)
    except OSError as error:
        complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        code = EXIT_ERROR
    except Exception as error:
        if os.environ.get("FANOUT_DEBUG"):
            raise
        complain(f"internal error, please report it: {type(error).__name__}: {error} (FANOUT_DEBUG=1 shows where)")
        code = EXIT_ERROR
    return code if isinstance(code, int) else EXIT_OK


def run() -> NoReturn:
    """Run the command line as the process: end it with the exit code.

    By `os._exit`: to tear down a hundred modules would take a sixth of the time of `fanout send`.
    """
    # Imports make many objects and no garbage: the default threshold of 700 would run the collector in vain.
    gc.set_threshold(50_000)
    _open_standard_streams()
    code = main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _open_standard_streams() -> None:
    """Open /dev/null for closed standard streams (`>&-` in some supervisors): a socket must not get their number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open to the end
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open to the end
