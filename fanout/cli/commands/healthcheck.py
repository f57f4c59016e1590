"""`fanout healthcheck`: an exec probe, for where the kubelet cannot reach the admin port."""

from __future__ import annotations

from contextlib import closing

import click

from fanout.cli.options import option, seconds_option
from fanout.cli.output import EXIT_ERROR, EXIT_OK
from fanout.options import printable


@click.command()
@option(
    "--host",
    envvar=["FANOUT_ADMIN_HOST", "FANOUT_HOST"],  # a relay's, a receiver's
    default="localhost",
    metavar="ADDRESS",
    help="Address of its admin port.",
)
@option("--admin-port", type=click.IntRange(1, 65_535), default=8080, help="Its admin port.")
@option("--live", is_flag=True, help="Check whether it is alive (/livez) instead of ready (/readyz).")
@seconds_option("--timeout", 2.0, "Wait at most this long for an answer.", most=60, above_zero=True)
def healthcheck(host: str, admin_port: int, live: bool, timeout: float) -> int:
    """Check whether a receiver or a relay is ready: print its answer; exit code 0 for yes and 1 for no."""
    from http.client import HTTPConnection, HTTPException

    path = "/livez" if live else "/readyz"
    try:
        with closing(HTTPConnection(host, admin_port, timeout=timeout)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read(200).decode("utf-8", "replace")
    except (OSError, HTTPException, ValueError) as error:
        from fanout.model import Endpoint  # takes a tenth of the time of a probe to import

        url = f"http://{Endpoint(host, admin_port)}{path}"
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise click.ClickException(f"cannot reach a receiver or relay at {url}: {_one_line(reason)}") from None
    click.echo(_one_line(text))
    return EXIT_OK if response.status == 200 else EXIT_ERROR


def _one_line(text: str) -> str:
    """Return the first line of untrusted text, with `?` for what cannot be printed."""
    return printable(next(iter(text.splitlines()), ""))
