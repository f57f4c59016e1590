"""A sender and receivers in containers, run as OpenShift's restricted-v2 would run them.

Docker answers a network alias with the address of every container that has it: that is `headless-udp`.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, NoReturn, cast

import yaml
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.support.tree import ROOT
from tests.support.waiting import PATIENCE, until

SERVICE = "headless-udp"
SENDER = "pod-sender.yaml"
RECEIVER = "statefulset-statefulset-udp-server.yaml"
RESTRICTED: dict[str, Any] = {
    "user": "1000740000:0",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}
PATIENT = {"timeout": 600}
"""For clients of the engine: what it does for others may take its time."""
_MARK = """
import socket, sys
for host in sys.argv[2:]:
    socket.socket(type=socket.SOCK_DGRAM).sendto(sys.argv[1].encode(), (host, 12000))
"""


def manifest_container(name: str) -> dict[str, Any]:
    """Return the container of a rendered manifest: what is tested is what is deployed."""
    manifest = yaml.safe_load((ROOT / "deployments" / "base" / name).read_text(encoding="utf-8"))
    spec = manifest["spec"]["template"]["spec"] if "template" in manifest["spec"] else manifest["spec"]
    container: dict[str, Any] = spec["containers"][0]
    return container


class Images(NamedTuple):
    """Tags of the images under test."""

    sender: str
    receiver: str
    relay: str


def restricted(image: str, **settings: Any) -> DockerContainer:
    """Return a container under restricted-v2, not yet started."""
    return DockerContainer(image, docker_client_kw=PATIENT, **settings, **RESTRICTED)


class Result(NamedTuple):
    """What a command in a container left behind."""

    code: int | None
    out: str
    err: str


def run(container: DockerContainer, *command: str) -> Result:
    """Run a command in a container, as `oc exec` does."""
    done = container.get_wrapped_container().exec_run(list(command), demux=True)
    out, err = cast("tuple[bytes | None, bytes | None]", done.output)
    return Result(done.exit_code, (out or b"").decode(), (err or b"").decode())


def log_lines(container: DockerContainer) -> list[dict[str, Any]]:
    """Return a container's standard output, every line of which must be strict JSON."""
    out, err = container.get_logs()
    assert err == b"", "nothing but the log is written"
    return [json.loads(line, parse_constant=_refuse) for line in out.decode().splitlines()]


def exit_code(container: DockerContainer) -> int:
    """Wait for a container to end and return its exit code."""
    code: int = container.get_wrapped_container().wait(timeout=PATIENCE)["StatusCode"]
    return code


class Cluster:
    """A sender, and as many receivers as it is scaled to, on one network."""

    def __init__(self, images: Images, network: Network) -> None:
        self.images = images
        self.network = network
        self.sender = self.another_sender(POD_NAME="sender")
        self.receivers: list[DockerContainer] = []
        self._made = 0
        self._mark = ""

    def start(self) -> None:
        """Start the sender. Until Python runs, the kernel drops every signal to PID 1: wait for its first line."""
        self.sender.start()
        until(partial(log_lines, self.sender), "the sender is ready")

    def another_sender(self, **environment: str) -> DockerContainer:
        """Return a container that is as the sender, not yet started."""
        made = restricted(self.images.sender, network=self.network)
        return made.with_envs(**_environment(SENDER), **environment)

    def container(self, image: str, **environment: str) -> DockerContainer:
        """Return a container that DNS answers with for the Service, not yet started."""
        made = restricted(image, network=self.network, network_aliases=[SERVICE])
        return made.with_envs(**environment)

    def receiver(self, **environment: str) -> DockerContainer:
        """Return a receiver that is as its manifest says, not yet started."""
        pod = {"POD_NAME": f"statefulset-udp-server-{self._made}", "POD_NAMESPACE": "udp"}
        self._made += 1
        # It stops soon, and tells of each message.
        stated = _environment(RECEIVER) | {"FANOUT_DRAIN": "0.2", "FANOUT_LOG_RATE": "0"}
        return self.container(self.images.receiver, **stated | pod | environment)

    def scale(self, replicas: int) -> None:
        """Add receivers, or remove the last ones, as `oc scale` does, and wait until all are ready."""
        while len(self.receivers) > replicas:
            self.remove(self.receivers[-1])
        added = [self.receiver() for _ in range(replicas - len(self.receivers))]
        self.receivers += added
        with ThreadPoolExecutor() as threads:
            list(threads.map(DockerContainer.start, added))
        for receiver in added:
            until(partial(events, receiver, "receiver_started"), "the receiver is ready")

    def at_least(self, replicas: int) -> None:
        """Add receivers where there are fewer."""
        self.scale(max(replicas, len(self.receivers)))

    def remove(self, receiver: DockerContainer) -> None:
        """Remove a receiver, whether it runs or not."""
        receiver.stop()
        self.receivers.remove(receiver)

    def forget(self) -> None:
        """Be as new: without receivers that an earlier test has ended, and without what it has sent to the others."""
        for receiver in list(self.receivers):
            wrapped = receiver.get_wrapped_container()
            wrapped.reload()
            if wrapped.status != "running":
                self.remove(receiver)
        if self.receivers:
            self._mark = f"mark {uuid.uuid4()}"
            hosts = [self.endpoint(receiver).partition(":")[0] for receiver in self.receivers]
            assert run(self.sender, "python3", "-c", _MARK, self._mark, *hosts) == (0, "", "")
            for receiver in self.receivers:
                until(partial(self._is_marked, receiver), "the mark has come")

    def _is_marked(self, receiver: DockerContainer) -> bool:
        return any(line["payload"] == self._mark for line in events(receiver, "message_received"))

    def messages(self, receiver: DockerContainer) -> list[dict[str, Any]]:
        """Return what a receiver has logged of messages in this test."""
        found = events(receiver, "message_received")
        marks = [number for number, line in enumerate(found) if line["payload"] == self._mark]
        return found[marks[-1] + 1 :] if marks else found

    def received(self, receiver: DockerContainer) -> list[str]:
        """Return the payloads that a receiver has logged in this test."""
        return [line["payload"] for line in self.messages(receiver)]

    def all_have_received(self, receivers: list[DockerContainer], *payloads: str) -> None:
        """Wait until each of the receivers has logged these payloads and no others, in this order."""
        for receiver in receivers:
            until(partial(self._has_received, receiver, list(payloads)), f"{payloads} in every log")

    def _has_received(self, receiver: DockerContainer, payloads: list[str]) -> bool:
        return self.received(receiver) == payloads

    def send(self, message: str, *options: str) -> Result:
        """Send from the sender pod."""
        return run(self.sender, "fanout", "send", "-s", SERVICE, "-m", message, *options)

    def endpoint(self, receiver: DockerContainer) -> str:
        """Return the endpoint under which DNS knows a receiver."""
        wrapped = receiver.get_wrapped_container()
        wrapped.reload()
        return f"{wrapped.attrs['NetworkSettings']['Networks'][self.network.name]['IPAddress']}:12000"

    def close(self) -> None:
        """Remove every container."""
        with ThreadPoolExecutor() as threads, contextlib.ExitStack() as stack:
            for container in [self.sender, *self.receivers]:
                stack.callback(threads.submit(container.stop).result)


@contextlib.contextmanager
def started(container: DockerContainer) -> Iterator[DockerContainer]:
    """Start a container, and remove it in the end."""
    with contextlib.ExitStack() as stack:
        stack.callback(container.stop)
        yield container.start()


def events(container: DockerContainer, name: str) -> list[dict[str, Any]]:
    """Return the lines of a container's log with this event."""
    return [line for line in log_lines(container) if line["event"] == name]


def is_ready(receiver: DockerContainer) -> bool:
    """Whether a receiver says so."""
    return run(receiver, "fanout", "healthcheck").code == 0


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _environment(name: str) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in manifest_container(name)["env"] if "value" in entry}
