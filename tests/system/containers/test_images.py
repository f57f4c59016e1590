"""What is inside the images, and that it runs under restricted-v2."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import docker
import pytest

import fanout
from tests.system.containers.cluster import RECEIVER, RESTRICTED, Images, manifest_container, run

if TYPE_CHECKING:
    from tests.system.containers.cluster import Cluster

pytestmark = pytest.mark.containers

LOOK_AROUND = """
import json, os, pathlib, sys
files = [path for path in pathlib.Path("/opt/fanout").rglob("*") if path.is_file()]
names = {part for path in files for part in path.relative_to("/opt/fanout").parts}
print(json.dumps({
    "uid": os.getuid(),
    "gid": os.getgid(),
    "prefix": sys.prefix,
    "tools": sorted({"pip", "pip3", "setuptools", "wheel", "ensurepip", "gcc", "cc"} & names),
    "unreadable": [str(path) for path in files if not os.access(path, os.R_OK)],
    "writable": [str(path) for path in files if os.access(path, os.W_OK)],
    "not compiled": [
        str(path) for path in files
        if path.suffix == ".py" and path.is_relative_to("/opt/fanout/lib")
        and not list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc"))
    ],
}))
"""


SEAL = """
from fanout.protocol import frame
from fanout.protocol.seal import Keyring, Opener, Sealer
ring, inner = Keyring((bytes(32),)), frame.mark(1, 2, 2)
print(Opener(ring, "x").open(frame.decode(Sealer(ring, "x", 1, 1).seal_many([inner], 0.0)[0]), 0.0) == inner)
"""


@pytest.mark.parametrize("app", Images._fields)
def test_image_says_what_it_is(engine: docker.DockerClient, images: Images, app: str) -> None:
    config = engine.images.get(getattr(images, app)).attrs["Config"]
    assert config["User"] == "1001", "a number, or runAsNonRoot cannot be checked"
    assert not config["Cmd"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == labels["name"] == f"fanout-{app}"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    for key in ("io.k8s.display-name", "io.k8s.description", "io.openshift.tags", "summary", "description"):
        assert labels[key]


@pytest.mark.parametrize(
    ("app", "command", "ports"),
    [("receiver", "receive", {"12000/udp", "8080/tcp"}), ("relay", "relay", {"8080/tcp"})],
)
def test_image_starts_its_app(
    engine: docker.DockerClient, images: Images, app: str, command: str, ports: set[str]
) -> None:
    config = engine.images.get(getattr(images, app)).attrs["Config"]
    assert config["Entrypoint"] == ["fanout", command]
    assert set(config["ExposedPorts"]) == ports


def test_relay_image_holds_the_schema_of_its_file(engine: docker.DockerClient, images: Images) -> None:
    printed = engine.containers.run(images.relay, ["--schema"], remove=True, network_mode="none", **RESTRICTED)
    assert "ingresses" in json.loads(printed)["properties"]


def test_relay_image_holds_what_the_relay_for_media_servers_needs(engine: docker.DockerClient, images: Images) -> None:
    """What it speaks HTTP with is compiled, and looks for its packages only when it runs."""
    isolated: dict[str, Any] = {"remove": True, "network_mode": "none", **RESTRICTED}
    command = ["-c", "import aiohttp, defusedxml, fanout.ssdp.relay; from aiohttp import _http_parser; print('whole')"]
    assert engine.containers.run(images.relay, command, entrypoint="python3", **isolated) == b"whole\n"
    told = engine.containers.run(images.relay, ["ssdp", "--help"], **isolated).decode()
    assert "--http-ports FIRST-LAST" in told


def test_both_run_as_any_uid_with_nothing_to_build_or_write_with(cluster: Cluster) -> None:
    cluster.at_least(1)
    for container in (cluster.sender, cluster.receivers[0]):
        assert run(container, "fanout", "--version").out.strip() == f"fanout {fanout.__version__}"
        result = run(container, "python3", "-c", LOOK_AROUND)
        assert result.code == 0, result.err
        assert json.loads(result.out) == {
            "uid": 1000740000,
            "gid": 0,
            "prefix": "/opt/fanout",
            "tools": [],
            "unreadable": [],
            "writable": [],
            "not compiled": [],
        }
        assert run(container, "python3", "-c", "open('/tmp/x', 'w')").code != 0, "the root is read-only"


def test_both_seal_and_open(cluster: Cluster) -> None:
    cluster.at_least(1)
    for container in (cluster.sender, cluster.receivers[0]):
        result = run(container, "python3", "-c", SEAL)
        assert (result.code, result.out) == (0, "True\n"), result.err


def test_probes_of_the_manifest_are_answered(cluster: Cluster) -> None:
    cluster.at_least(1)
    container = manifest_container(RECEIVER)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        request = container[probe]["httpGet"]
        url = f"http://localhost:{ports[request['port']]}{request['path']}"
        ask = f"import urllib.request; print(urllib.request.urlopen({url!r}).status)"
        assert run(cluster.receivers[0], "python3", "-c", ask) == (0, "200\n", ""), probe


def test_healthcheck_is_an_exec_probe(cluster: Cluster) -> None:
    cluster.at_least(1)
    ready = run(cluster.receivers[0], "fanout", "healthcheck")
    assert (ready.code, ready.out, ready.err) == (0, "ok\n", "")
    nobody = run(cluster.sender, "fanout", "healthcheck")
    assert nobody.code == 1
    assert "cannot reach a receiver or relay" in nobody.err
