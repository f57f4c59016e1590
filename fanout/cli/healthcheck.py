"""`fanout healthcheck`: an exec probe for where the kubelet cannot reach the admin port."""

from __future__ import annotations

import click

from fanout.cli import EXIT_ERROR
from fanout.cli.options import FiniteRange, option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@option("--host", default="localhost", show_default=True, metavar="ADDRESS", help="Where the receiver listens.")
@option("--admin-port", type=click.IntRange(1, 65_535), default=8080, show_default=True, help="Its admin port.")
@option("--live", is_flag=True, help="Ask whether it lives instead of whether it is ready.")
@option(
    "--timeout",
    type=FiniteRange(0, 60, min_open=True),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for an answer.",
)
def healthcheck(host: str, admin_port: int, live: bool, timeout: float) -> int:
    """Ask a receiver whether it is ready: prints its answer, exit code 0 for yes and 1 for no."""
    from http.client import HTTPConnection, HTTPException

    path = "/livez" if live else "/readyz"
    connection = HTTPConnection(host, admin_port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read(200).decode("utf-8", "replace").strip()
    except (OSError, HTTPException) as error:
        raise click.ClickException(
            f"no receiver answers at http://{host}:{admin_port}{path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    finally:
        connection.close()
    click.echo(text)
    return 0 if response.status == 200 else EXIT_ERROR
