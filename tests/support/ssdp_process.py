"""A relay's HTTP ports in a process of their own, for the memory that it takes; all its limits are an eighth.

The process that imports all that a relay needs is started once (`Relays`), and makes a copy of itself for each relay.
A line on a relay's control connection is answered with one of JSON: its port first, its `State` from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from fanout.ssdp.core import body, urls
from fanout.ssdp.core.urls import Origin
from fanout.ssdp.http import body_budget, server, splice, upstream
from fanout.ssdp.http.body_budget import BodyBudget
from tests.support.ssdp_http import BUFFER, POD, Relay, hang_up, relay
from tests.support.tree import ROOT

SHARE = 8
"""What a relay may take is divided by that, and so is what it is given."""
CLIENTS = [f"127.0.1.{number}" for number in range(1, 9)]
EACH = server.CONNECTIONS_OF_ONE_MAX // SHARE
"""Connections of each client."""
DOCUMENT_MAX = body.DOCUMENT_MAX // SHARE
URLS_MAX = urls.URLS_MAX // SHARE


class State(NamedTuple):
    """How a relay is."""

    now: int
    """Bytes that the process has in memory,"""
    most: int
    """and had at most."""
    connections: int
    answered: int
    failures: dict[str, int]


class Alone:
    """A relay, and what is asked of it."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.port = port
        self._reader, self._writer = reader, writer

    async def state(self) -> State:
        self._writer.write(b"\n")
        return State(**json.loads(await self._reader.readline()))


class Relays:
    """Makes relays to a pod, one after the other, which serve CLIENTS."""

    async def __aenter__(self) -> Relays:
        self._connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._server = await asyncio.start_server(
            lambda reader, writer: self._connected.put_nowait((reader, writer)), "127.0.0.1", 0
        )
        port = self._server.sockets[0].getsockname()[1]
        command = (sys.executable, "-m", __name__, str(port))
        self._process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, cwd=ROOT)
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        self._server.close()
        await self._server.wait_closed()

    @contextlib.asynccontextmanager
    async def relay_to(self, pod_port: int) -> AsyncIterator[Alone]:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        reader, writer = await self._connected.get()
        try:
            writer.write(f"{pod_port}\n".encode())
            yield Alone(int(await reader.readline()), reader, writer)
        finally:
            await hang_up(writer)


async def _serve(control_port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", control_port)
    async with relay(Origin(POD, int(await reader.readline())), keeps=BUFFER) as edge:
        edge.proxy._budget = BodyBudget(body_budget.BUDGET // SHARE, body_budget.BUDGET_OF_ONE // SHARE)
        edge.allowed |= set(CLIENTS)
        writer.write(f"{edge.port}\n".encode())
        while await reader.readline():
            writer.write(json.dumps(_state(edge)._asdict()).encode() + b"\n")
    await hang_up(writer)


def _state(edge: Relay) -> State:
    answered = sum(edge.counts.statuses.values())
    failures = {str(failure): count for failure, count in edge.counts.failures.items()}
    return State(_memory("VmRSS"), _memory("VmHWM"), edge.counts.connections, answered, failures)


def _memory(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{which}:"))


def _main(control_port: int) -> None:
    while os.read(sys.stdin.fileno(), 1):
        copy = os.fork()
        if copy == 0:
            asyncio.run(_serve(control_port))
            return
        os.waitpid(copy, 0)


if __name__ == "__main__":
    with (
        mock.patch.object(server, "CONNECTIONS_MAX", server.CONNECTIONS_MAX // SHARE),
        mock.patch.object(splice, "SLOW_MAX", splice.SLOW_MAX // SHARE),
        mock.patch.object(urls, "URLS_MAX", URLS_MAX),
        mock.patch.object(upstream, "DOCUMENT_MAX", DOCUMENT_MAX),
        # Whoever there is no memory for is to be refused, sooner or later.
        mock.patch.object(body_budget, "PATIENCE", 0.01),
    ):
        _main(int(sys.argv[1]))
