"""The local headless Service itself: receivers, their nameserver, and the control socket, in one process.

Started by `fanout.local.launch`, with its settings as JSON in the first argument. It writes one line of JSON to
standard output, `{}` when every pod is ready or `{"error": SENTENCE}`, and runs until it is stopped: by the
command `down`, by SIGINT, SIGTERM or SIGHUP, or by the end of a process that it watches.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from fanout.errors import FanoutError, InvalidInput
from fanout.local import control, state
from fanout.local.core.zone import Pod, Zone
from fanout.local.directory import StateDirectory
from fanout.local.launch import MAX_REPLICAS, LocalSettings, ready_timeout
from fanout.local.nameserver import Nameserver
from fanout.local.pod_process import PodProcess, free_address
from fanout.local.state import LocalService, LocalServiceError

_STATEFULSET = "statefulset-udp-server"
_NDOTS = 5
_MAX_FAILURES = 3
"""Ends in a row after which a pod that was never ready is no longer waited for; it is still restarted."""


class Supervisor:
    """Keeps the wanted number of pods, and DNS in step with the ready ones. `run()` is its whole life."""

    def __init__(self, settings: LocalSettings, directory: StateDirectory) -> None:
        self._settings = settings
        self._directory = directory
        self._zone = Zone(port=settings.port)
        self._pods: list[PodProcess] = []
        self._nameserver: Nameserver | None = None
        self._changed = asyncio.Event()
        self._scaling = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()

    async def run(self, when_ready: Callable[[], None]) -> None:
        """Start the Service, report it, stop it on command, and release the state directory.

        Raises `FanoutError` or `OSError` if it does not come up; nothing is left then.
        """
        server: control.ControlServer | None = None
        try:
            self._listen_to_the_system()
            self._nameserver = await Nameserver.start(self._zone)
            server = await control.ControlServer.start(self._directory.path, self._handle)
            await self.scale(self._settings.replicas)
            self._directory.publish(self._describe())
            when_ready()
            await self._stopping.wait()
        finally:
            self._stop()
            async with self._scaling:
                await asyncio.gather(*(pod.stop() for pod in self._pods))
            if self._nameserver is not None:
                await self._nameserver.close()
            self._directory.release()
            self._stopped.set()
            if server is not None:
                await server.close()

    async def scale(self, replicas: int) -> None:
        """Scale to that many pods, as a StatefulSet does: the highest ordinals go; return when all are ready.

        Raises `LocalServiceError` naming the first pod that did not become ready.
        """
        async with self._scaling:
            removed, self._pods = self._pods[replicas:], self._pods[:replicas]
            try:
                while len(self._pods) < replicas and not self._stopping.is_set():
                    self._add_pod()
            finally:
                await asyncio.gather(*(pod.stop() for pod in removed))
            await self._until_ready(ready_timeout(replicas))

    def _stop(self) -> None:
        self._stopping.set()
        self._changed.set()

    def _add_pod(self) -> None:
        pod = PodProcess(
            f"{_STATEFULSET}-{len(self._pods)}",
            namespace=self._zone.namespace,
            settings=self._settings,
            directory=self._directory.path,
            pick_address=lambda: free_address(self._settings.port, {pod.address for pod in self._pods}),
            on_change=self._pods_changed,
        )
        self._pods.append(pod)

    async def _until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while waiting := [pod for pod in self._pods if not pod.ready]:
            left = deadline - time.monotonic()
            failing = next((pod for pod in waiting if pod.failures >= _MAX_FAILURES), None)
            if failing is not None or left <= 0:
                pod = failing or waiting[0]
                raise LocalServiceError(
                    f"{pod.name} on {pod.address}:{self._settings.port} did not become ready"
                    f"{f' within {timeout:.0f} s' if failing is None else ''}: "
                    f"{pod.problem or 'it wrote nothing to standard error'}"
                )
            self._changed.clear()
            if self._stopping.is_set():
                raise LocalServiceError("the local headless Service was stopped before its pods were ready")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def _pods_changed(self) -> None:
        self._changed.set()
        ready = [Pod(pod.name, pod.address) for pod in self._pods if pod.ready]
        if self._nameserver is not None and tuple(ready) != self._nameserver.zone.pods:
            self._nameserver.zone = self._nameserver.zone.with_pods(ready)

    async def _handle(self, command: control.Values) -> control.Values:
        match command:
            case {"command": "status"}:
                return self._status()
            case {"command": "scale", "replicas": int(replicas)} if 0 <= replicas <= MAX_REPLICAS:
                await self.scale(replicas)
                return self._status()
            case {"command": "scale"}:
                raise InvalidInput(
                    f"replicas must be a number from 0 to {MAX_REPLICAS}; got {command.get('replicas')!r}"
                )
            case {"command": "down"}:
                self._stop()
                await self._stopped.wait()
                return {}
        raise InvalidInput(f"unknown command {command.get('command')!r}")

    def _status(self) -> control.Values:
        return {
            **self._describe()._asdict(),
            "name": self._zone.name,
            "pods": [
                {
                    "name": pod.name,
                    "address": pod.address,
                    "ready": pod.ready,
                    "restarts": pod.restarts,
                    "uptime": round(pod.uptime, 3),
                    "pid": pod.pid,
                    "problem": pod.problem,
                }
                for pod in self._pods
            ],
        }

    def _describe(self) -> LocalService:
        assert self._nameserver is not None  # noqa: S101 - narrows the type
        return LocalService(
            pid=os.getpid(),
            nameserver=str(self._nameserver.endpoint),
            search=self._zone.search,
            ndots=_NDOTS,
            service=self._zone.service,
            port=self._settings.port,
            directory=self._directory.path,
        )

    def _listen_to_the_system(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop)
        for pid in self._settings.watched:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError as error:
                raise LocalServiceError(f"--pid must be a running process; got {pid}") from error
            loop.add_reader(descriptor, self._watched_ended, descriptor)

    def _watched_ended(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        self._stop()


def main() -> None:
    """Run with the settings in the first argument."""
    settings = LocalSettings(**json.loads(sys.argv[1]))
    path = state.directory_path()
    try:
        directory = StateDirectory.take(path)
        _redirect(sys.stderr.fileno(), state.supervisor_log_path(path))
        asyncio.run(Supervisor(settings, directory).run(lambda: _announce({})))
    except FanoutError as error:
        _announce({"error": str(error)})
        sys.exit(1)
    except OSError as error:
        _announce({"error": f"the local headless Service cannot run with its state in {path}: {error}"})
        sys.exit(1)


def _announce(outcome: control.Values) -> None:
    """Report the result of the start to the launcher, and close its pipe."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(outcome).encode() + b"\n")
    _redirect(sys.stdout.fileno(), os.devnull)


def _redirect(descriptor: int, path: str) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(opened, descriptor)
    os.close(opened)


if __name__ == "__main__":
    main()
