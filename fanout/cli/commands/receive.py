"""`fanout receive`: the receiver app, the same in a pod and on a laptop."""

from __future__ import annotations

from typing import Any

import click

from fanout.cli.interrupt import hold_signals
from fanout.cli.options import (
    FiniteRange,
    admin_port_option,
    drain_option,
    is_given,
    key_options,
    log_options,
    option,
    seconds_option,
)
from fanout.model import DEFAULT_PORT, MAX_PAYLOAD
from fanout.net.bind import RECEIVE_BUFFER
from fanout.receiver.listener import WORKERS_MAX
from fanout.receiver.queue import Overflow


@click.command()
@option("--host", metavar="ADDRESS", help="Listen on this address only. [default: all addresses, IPv4 and IPv6]")
@option("-p", "--port", type=click.IntRange(0, 65_535), default=DEFAULT_PORT, help="UDP port; 0 for any free one.")
@admin_port_option
@option(
    "--receive-buffer",
    type=click.IntRange(min=1),
    default=RECEIVE_BUFFER,
    metavar="BYTES",
    help="Receive buffer to request from the kernel.",
)
@option(
    "--workers",
    type=click.IntRange(1, WORKERS_MAX),
    default=1,
    metavar="N",
    help="Empty the kernel's buffers by N threads with a socket each; 1 needs no thread.",
)
@option(
    "--overflow",
    type=click.Choice([policy.value for policy in Overflow]),
    default=Overflow.WAIT.value,
    help="When the queue is full: leave datagrams in the kernel's buffer, or drop them.",
)
@drain_option(5.0, "receiving")
@log_options
@option(
    "--log-rate",
    type=FiniteRange(min=0),
    default=200.0,
    metavar="N",
    help="Log at most N messages a second, and the number left out; 0 logs all.",
)
@option(
    "--log-payload",
    type=click.IntRange(0, MAX_PAYLOAD),
    default=MAX_PAYLOAD,
    metavar="BYTES",
    help="Log at most BYTES of each payload.",
)
@option(
    "--exec",
    "exec_",
    metavar="COMMAND",
    help="Run this for each message, without a shell: the message is its standard input, and its standard output is a "
    "query's reply.",
)
@seconds_option(
    "--exec-timeout", 10.0, "Kill the command after this long: the message has failed.", most=86_400, above_zero=True
)
@option(
    "--handler",
    metavar="MODULE:FUNCTION",
    help="Call this for each message; the bytes that it returns are a query's reply.",
)
@option("--reply-to-anyone", is_flag=True, help="Send replies that are larger than the query, unsealed ones too.")
@key_options
@option("--accept-plaintext", is_flag=True, help="With keys: accept unsealed messages, too, while senders change.")
def receive(**settings: Any) -> None:
    """Receive datagrams and log each one: the receiver that runs in the pods.

    It confirms messages whose sender requests it, answers the queries ping and info, and any others by --exec or
    --handler: one message at a time. A message is confirmed once its handler has succeeded.

    After SIGTERM it is not ready, receives for the drain time, hands over what is queued, and exits with 0. Log
    lines name the pod by POD_NAME, POD_NAMESPACE, POD_IP and NODE_NAME (the downward API).
    """
    for name, needed in (("cluster", "key_file"), ("accept_plaintext", "key_file"), ("exec_timeout", "exec_")):
        if is_given(name) and settings[needed] is None:
            flags = [f"--{each.rstrip('_').replace('_', '-')}" for each in (name, needed)]
            raise click.UsageError(f"{flags[0]} needs {flags[1]}: give both")
    hold_signals()
    from fanout.daemon.receiver.program import ReceiverSettings, run

    run(ReceiverSettings(admin_host=settings["host"], **settings))
