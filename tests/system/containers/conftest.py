"""Builds the images and lends out clusters of them; nothing is left behind, whatever happens.

Where no Docker engine or no base image is there, the tests are skipped loudly (`tests.support.needs`).
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from tests.support.needs import require, unavailable

# Its helper container would have to be pulled; the fixtures below remove what they made. Read at import.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

import docker
import pytest
from docker.errors import BuildError, DockerException, ImageNotFound
from testcontainers.core.network import Network

from tests.support.tree import ROOT
from tests.support.waiting import PATIENCE
from tests.system.containers.cluster import PATIENT, Cluster, Images

LOCAL_BASE = "localhost/fanout-base:latest"
LOCAL_MEDIA = "localhost/fanout-minidlna:latest"
DEFAULT_BASE = "registry.access.redhat.com/ubi9/python-312-minimal:latest"


def _connect() -> docker.DockerClient | str:
    """Return a client of an engine that answers, or why there is none."""
    try:
        return docker.from_env(version="auto", timeout=PATIENT["timeout"])
    except DockerException as error:
        cause: BaseException = error
        while cause.__context__ is not None:
            cause = cause.__context__  # what the system said, and not what three libraries made of that
        return (isinstance(cause, OSError) and cause.strerror) or str(error)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A Docker engine that answers."""
    with warnings.catch_warnings():
        # Where none answers, the docker package leaves its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        client = _connect()
        gc.collect()
    if isinstance(client, str):
        unavailable("containers", f"no Docker engine answers: {client}")
    with contextlib.closing(client):
        yield client


@pytest.fixture(scope="session")
def base_image(engine: docker.DockerClient) -> str:
    """The image that all are built on: FANOUT_BASE_IMAGE, the one that .ci/base-image makes, or UBI."""
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
        unavailable("containers", f"{reason}: {error}")
    return name


@pytest.fixture(scope="session")
def images(engine: docker.DockerClient, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """The images, built from their Containerfiles and from wheels of this tree."""
    context = tmp_path_factory.mktemp("context")
    for name in ("LICENSE", "README.md", "pyproject.toml", ".dockerignore"):
        shutil.copy(ROOT / name, context)
    for name in ("fanout", "apps"):
        shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    # `-o`: with this Python, whether it is the one of .venv or not. Wheels for the Python of the images alone.
    asked = ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = engine.containers.run(base_image, asked, remove=True, network_mode="none").decode().strip()
    make = ["make", "-C", str(ROOT), "-o", ".venv/.fanout", "wheels", f"BIN={Path(sys.executable).parent}"]
    subprocess.run([*make, f"WHEELS={context / 'wheels'}", f"IMAGE_PYTHONS={version}"], check=True)
    made = Images(*(f"localhost/fanout-test-{os.getpid()}-{app}" for app in Images._fields))
    # The first stage by itself has a tag as well, or it would stay behind as an image without a name.
    builds = [
        ("sender", "build", f"{made.sender}-build"),
        ("sender", None, made.sender),
        ("receiver", None, made.receiver),
        ("relay", None, made.relay),
    ]
    with contextlib.ExitStack() as stack:
        for app, stage, tag in builds:
            stack.callback(_remove_image, engine, tag)
            _build(engine, context, app, stage, tag, base_image)
        yield made


@pytest.fixture(scope="session")
def media_image(engine: docker.DockerClient) -> Iterator[str]:
    """The media server of deployments/overlays/dlna, which .ci/base-image makes as well, from its Containerfile."""
    with contextlib.suppress(ImageNotFound):
        engine.images.get(LOCAL_MEDIA)
        yield LOCAL_MEDIA
        return
    text = (ROOT / "deployments" / "overlays" / "dlna" / "Containerfile").read_text(encoding="utf-8")
    with contextlib.suppress(ImageNotFound):
        engine.images.get(LOCAL_BASE)
        text = re.sub("(?m)^FROM .*", f"FROM {LOCAL_BASE}", text)
    tag = f"localhost/fanout-test-{os.getpid()}-media"
    try:
        engine.images.build(fileobj=io.BytesIO(text.encode()), tag=tag, network_mode="host", rm=True)
    except DockerException as error:
        unavailable("containers", f"the image of the media server cannot be built ({error}; .ci/base-image makes it)")
    yield tag
    _remove_image(engine, tag)


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


@pytest.fixture(scope="session")
def shared_cluster(images: Images) -> Iterator[Cluster]:
    """A network with a sender and no receiver yet; nothing of it is left afterwards."""
    with contextlib.ExitStack() as stack:
        network = Network(docker_client_kw=PATIENT)
        stack.callback(network._docker.client.close)
        stack.enter_context(network)
        made = Cluster(images, network)
        stack.callback(made.close)
        made.start()
        yield made


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """A network with a sender, and receivers that have received nothing, if any."""
    shared_cluster.forget()
    return shared_cluster


@pytest.fixture
def lan(engine: docker.DockerClient) -> Iterator[Network]:
    """A network of the macvlan driver, on a cable that is gone with the test."""
    if os.geteuid() != 0:
        unavailable("containers", "a network of the macvlan driver needs root")
    require("ip", needed="containers")
    ends = [f"fo{os.getpid()}{end}" for end in "ab"]
    with contextlib.ExitStack() as stack:
        _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        stack.callback(_ip, "link", "delete", ends[0])
        for end in ends:
            _ip("link", "set", end, "up")
        made = Network(PATIENT, docker_network_kw={"driver": "macvlan", "options": {"parent": ends[0]}})
        stack.callback(made._docker.client.close)
        yield stack.enter_context(made)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=PATIENCE)
