"""Real containers of both images, on a network whose DNS answers like a headless Service.

Docker answers a network alias with the address of every container that has it: that is `headless-udp`. Every
container runs as OpenShift's restricted-v2 would run it. Where no Docker engine or no base image is there, the
tests are skipped and the reason is printed; FANOUT_REQUIRE=containers turns that into failures.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

# Its helper container would have to be pulled; the fixtures below remove what they made themselves. Read at import.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

import docker
import pytest
from docker.errors import BuildError, DockerException, ImageNotFound
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

ROOT = Path(__file__).resolve().parent.parent.parent
LOCAL_BASE = "localhost/fanout-base:latest"
DEFAULT_BASE = "registry.access.redhat.com/ubi9/python-312-minimal:latest"
SERVICE = "headless-udp"
RESTRICTED: dict[str, Any] = {
    "user": "1000740000:0",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}

_REASON = pytest.StashKey[str]()


class Images(NamedTuple):
    """Tags of the two images under test."""

    sender: str
    receiver: str


class Result(NamedTuple):
    """What a command in a container left behind."""

    code: int | None
    out: str
    err: str


def until(condition: Callable[[], object], what: str, timeout: float = 20.0) -> None:
    """Wait until `condition` holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.05)


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


def _has_received(receiver: DockerContainer, payloads: list[str]) -> bool:
    return received(receiver) == payloads


def _is_ready(receiver: DockerContainer) -> bool:
    return run(receiver, "fanout", "healthcheck").code == 0


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def exit_code(container: DockerContainer) -> int:
    """Wait for a container to end and return its exit code."""
    code: int = container.get_wrapped_container().wait(timeout=30)["StatusCode"]
    return code


@dataclass
class Cluster:
    """A sender, and as many receivers as it is scaled to, on one network."""

    images: Images
    network: Network
    sender: DockerContainer
    receivers: list[DockerContainer] = field(default_factory=list)

    def container(self, image: str, *, alias: str | None = None, **environment: str) -> DockerContainer:
        """Return a container of this network, not yet started."""
        made = DockerContainer(image, network=self.network, network_aliases=[alias] if alias else None, **RESTRICTED)
        return made.with_envs(**environment)

    def scale(self, replicas: int) -> None:
        """Add receivers, as `oc scale` does, and wait until they are ready."""
        while len(self.receivers) < replicas:
            name = f"statefulset-udp-server-{len(self.receivers)}"
            added = self.container(
                self.images.receiver, alias=SERVICE, POD_NAME=name, POD_NAMESPACE="udp", FANOUT_DRAIN="2"
            )
            self.receivers.append(added)
            added.start()
        for receiver in self.receivers:
            until(partial(_is_ready, receiver), "the receiver is ready")

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
        with contextlib.ExitStack() as stack:
            for container in [self.sender, *self.receivers]:
                stack.callback(container.stop)


def received(receiver: DockerContainer) -> list[str]:
    """Return the payloads that a receiver has logged."""
    return [line["payload"] for line in log_lines(receiver) if line["event"] == "message_received"]


def all_have_received(receivers: list[DockerContainer], *payloads: str) -> None:
    """Wait until each of the receivers has logged these payloads and no others, in this order."""
    for receiver in receivers:
        until(partial(_has_received, receiver, list(payloads)), f"{payloads} in every log")


def _unavailable(config: pytest.Config, reason: str, error: str) -> NoReturn:
    if "containers" in os.environ.get("FANOUT_REQUIRE", "").split(","):
        pytest.fail(f"containers are required, and {reason}: {error}", pytrace=False)
    config.stash[_REASON] = f"{reason}: {error}"
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _REASON in config.stash:
        terminalreporter.section("container tests were skipped", yellow=True)
        terminalreporter.line(f"The images were not tested: {config.stash[_REASON]}")


def _connect() -> docker.DockerClient | str:
    """Return a client of an engine that answers, or why there is none."""
    try:
        return docker.from_env(version="auto", timeout=300)
    except DockerException as error:
        return str(error)


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> Iterator[docker.DockerClient]:
    """A Docker engine that answers."""
    with warnings.catch_warnings():
        # Where none answers, the docker package leaves its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        client = _connect()
        gc.collect()
    if isinstance(client, str):
        _unavailable(pytestconfig, "no Docker engine answers", client)
    with contextlib.closing(client):
        yield client


@pytest.fixture(scope="session")
def base_image(engine: docker.DockerClient, pytestconfig: pytest.Config) -> str:
    """The image that both are built on: FANOUT_BASE_IMAGE, the one that .ci/base-image makes, or UBI."""
    wanted = os.environ.get("FANOUT_BASE_IMAGE")
    for name in [wanted] if wanted else [LOCAL_BASE, DEFAULT_BASE]:
        with contextlib.suppress(ImageNotFound):
            engine.images.get(name)
            return name
    name = wanted or DEFAULT_BASE
    try:
        engine.images.pull(name)
    except DockerException as error:
        reason = f"there is no base image ({name} cannot be pulled; .ci/base-image makes {LOCAL_BASE})"
        _unavailable(pytestconfig, reason, str(error))
    return name


@pytest.fixture(scope="session")
def images(engine: docker.DockerClient, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """Both images, built from their Containerfiles and from wheels of this tree."""
    context = tmp_path_factory.mktemp("context")
    for name in ("LICENSE", "README.md", "pyproject.toml", ".dockerignore"):
        shutil.copy(ROOT / name, context)
    for name in ("fanout", "apps"):
        shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", context / "wheels", context], check=True, timeout=300)
    made = Images(*(f"localhost/fanout-test-{os.getpid()}-{app}" for app in Images._fields))
    # The first stage by itself has a tag as well, or it would stay behind as an image without a name.
    builds = [
        ("sender", "build", f"{made.sender}-build"),
        ("sender", None, made.sender),
        ("receiver", None, made.receiver),
    ]
    with contextlib.ExitStack() as stack:
        for app, stage, tag in builds:
            stack.callback(_remove_image, engine, tag)
            _build(engine, context, app, stage, tag, base_image)
        yield made


def _build(engine: docker.DockerClient, context: Path, app: str, stage: str | None, tag: str, base_image: str) -> None:
    try:
        engine.images.build(
            path=str(context),
            dockerfile=f"apps/{app}/Containerfile",
            target=stage,
            tag=tag,
            buildargs={"BASE_IMAGE": base_image},
            rm=True,
            forcerm=True,
        )
    except BuildError as error:
        log = "".join(str(entry.get("stream", "")) for entry in error.build_log)
        pytest.fail(f"apps/{app}/Containerfile does not build: {error}\n{log}", pytrace=False)


def _remove_image(engine: docker.DockerClient, tag: str) -> None:
    with contextlib.suppress(ImageNotFound):
        engine.images.remove(tag, force=True)


@pytest.fixture
def cluster(images: Images) -> Iterator[Cluster]:
    """A network with a sender and no receiver yet; nothing of it is left afterwards."""
    with contextlib.ExitStack() as stack:
        network = Network()
        stack.callback(network._docker.client.close)
        stack.enter_context(network)
        sender = DockerContainer(images.sender, network=network, **RESTRICTED).with_env("POD_NAME", "sender")
        made = Cluster(images, network, sender)
        stack.callback(made.close)
        sender.start()
        yield made
