"""`fanout keygen`: a new key for sealed messages."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

import click

from fanout.cli.output import EXIT_OK
from fanout.protocol.seal import KEY_SIZE


@click.command()
@click.argument("path", required=False, type=click.Path(), metavar="[PATH]")
def keygen(path: str | None) -> int:
    """Print a new key for --key-file, or write it to the new file PATH, which only its owner can read.

    An existing file is left as it is.

    \b
    fanout keygen >>keys             add one: the first key of a file seals, all open
    oc create secret generic fanout-key --from-literal=key="$(fanout keygen)"
    """
    line = base64.b64encode(secrets.token_bytes(KEY_SIZE)).decode("ascii")
    if path is None:
        click.echo(line)
        return EXIT_OK
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise click.ClickException(
            f"cannot write the new key to {path}: it exists, and keys in use would be lost; "
            "name another file, or delete it first"
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(f"{line}\n")
    except OSError as error:
        Path(path).unlink()
        raise _unwritable(path, error) from None
    click.echo(f"wrote a new key to {path}", err=True)
    return EXIT_OK


def _unwritable(path: str, error: OSError) -> click.ClickException:
    return click.ClickException(f"cannot write the new key to {path or repr(path)}: {error.strerror}")
