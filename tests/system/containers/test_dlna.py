"""The overlay dlna in containers: its servers under restricted-v2, and its relay between them and a LAN.

What runs is what the rendered manifests say, command, environment and mounts. The relay has a leg in a LAN (Docker's
macvlan driver) instead of the host's network.
"""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.support.tree import ROOT
from tests.support.waiting import until
from tests.system.containers.cluster import RESTRICTED, exit_code, is_ready, restricted, run, started
from tests.system.ssdp.media import Library, Medium, library

if TYPE_CHECKING:
    from tests.system.containers.cluster import Cluster

pytestmark = pytest.mark.containers

OVERLAY = ROOT / "deployments" / "overlays" / "dlna"
STATUS = "grep -hE '^(Name|Uid|CapEff|NoNewPrivs):' /proc/1/status"
# All videos of a media server, as a television asks for them; what comes back, and what that URL gives.
PLAY = """
import hashlib, json, re, sys, urllib.request
base = re.match("http://[^/]+", sys.argv[1])[0]
service = "urn:schemas-upnp-org:service:ContentDirectory:1"
said = {"ObjectID": "2$8", "BrowseFlag": "BrowseDirectChildren", "Filter": "*", "StartingIndex": "0",
        "RequestedCount": "0", "SortCriteria": ""}
arguments = "".join(f"<{name}>{value}</{name}>" for name, value in said.items())
body = ('<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
        f'<s:Body><u:Browse xmlns:u="{service}">{arguments}</u:Browse></s:Body></s:Envelope>')
headers = {"Content-Type": 'text/xml; charset="utf-8"', "SOAPACTION": f'"{service}#Browse"'}
browse = urllib.request.Request(base + "/ctl/ContentDir", body.encode(), headers)
found = urllib.request.urlopen(browse, timeout=120).read().decode()
urls = sorted(set(re.findall(r"http://[^<>&]+?/MediaItems/\\d+\\.mp4", found)))
print(json.dumps({url: hashlib.sha256(urllib.request.urlopen(url, timeout=120).read()).hexdigest() for url in urls}))
"""


def manifest(kind: str, name: str) -> Any:
    return yaml.safe_load((OVERLAY / f"{kind}-{name}.yaml").read_text(encoding="utf-8"))


class Servers:
    """The pods of the StatefulSet, each with a folder for each of its volumes."""

    def __init__(self, image: str, network: Network, folder: Path) -> None:
        self._spec = manifest("statefulset", "media")["spec"]["template"]["spec"]
        self._image = image
        self._network = network
        self._folder = folder
        self.films: Library = library(folder / "films")
        (folder / "config").mkdir()
        for name, text in manifest("configmap", "media")["data"].items():
            (folder / "config" / name).write_text(text)

    def pod(self, name: str) -> DockerContainer:
        """Return a pod of that name, not yet started."""
        [container] = self._spec["containers"]
        made = restricted(self._image, network=self._network, network_aliases=["media"])
        fields = {"metadata.name": name, "metadata.namespace": "media"}
        for entry in container["env"]:
            value = entry.get("value") or fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
            made.with_env(entry["name"], value)
        for mount in container["volumeMounts"]:
            mode = "ro" if mount.get("readOnly") else "rw"
            made.with_volume_mapping(str(self._source(mount["name"], name)), mount["mountPath"], mode)
        return made.with_kwargs(entrypoint=container["command"], **RESTRICTED)

    def _source(self, volume: str, pod: str) -> Path:
        [kind] = (kind for each in self._spec["volumes"] if each["name"] == volume for kind in each if kind != "name")
        folder = {
            "configMap": self._folder / "config",
            "persistentVolumeClaim": self.films.folder,
            "emptyDir": self._folder / f"state-{pod}",
        }[kind]
        folder.mkdir(exist_ok=True)
        if kind == "emptyDir":
            folder.chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
        return folder


@pytest.fixture
def servers(media_image: str, cluster: Cluster, tmp_path: Path) -> Servers:
    return Servers(media_image, cluster.network, tmp_path)


@pytest.fixture
def film(servers: Servers) -> Medium:
    return servers.films.add("holiday.mp4", tail=1 << 20)


def log(container: DockerContainer) -> str:
    out, err = container.get_logs()
    return (out + err).decode()


def ask(container: DockerContainer, sender: DockerContainer) -> str | None:
    """Return the description of a pod that answers, asked by another."""
    wrapped = container.get_wrapped_container()
    wrapped.reload()
    [network] = wrapped.attrs["NetworkSettings"]["Networks"].values()
    url = f"http://{network['IPAddress']}:8200/rootDesc.xml"
    script = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=2).read().decode())"
    asked = run(sender, "python3", "-c", script)
    return asked.out if asked.code == 0 else None


def restart(container: DockerContainer) -> None:
    """Crash a pod's program; the kubelet starts it again, with the emptyDir that it had."""
    wrapped = container.get_wrapped_container()
    wrapped.kill("SIGKILL")
    exit_code(container)
    wrapped.start()


@contextlib.contextmanager
def relayed(cluster: Cluster, lan: Network) -> Iterator[DockerContainer]:
    """Run the relay of the overlay, with an interface eth1 in the LAN."""
    [container] = manifest("deployment", "relay-dlna")["spec"]["template"]["spec"]["containers"]
    relay = restricted(cluster.images.relay, network=cluster.network)
    relay.with_envs(**{entry["name"]: entry["value"] for entry in container["env"] if "value" in entry})
    relay.with_env("FANOUT_INTERFACE", "eth1").with_command(container["args"])
    with started(relay):
        lan.connect(str(relay.get_wrapped_container().id))
        until(partial(is_ready, relay), "the relay is ready")
        yield relay


def address(container: DockerContainer, network: Network) -> str:
    wrapped = container.get_wrapped_container()
    wrapped.reload()
    found: str = wrapped.attrs["NetworkSettings"]["Networks"][network.name]["IPAddress"]
    return found


@pytest.mark.usefixtures("film")
def test_minidlna_runs_restricted_and_survives_a_crash(servers: Servers, cluster: Cluster) -> None:
    with started(servers.pod("media-0")) as pod:
        first = until(lambda: ask(pod, cluster.sender), "it serves")
        until(lambda: "finished (1 files)" in log(pod), "it has looked through the films, and tells in its log")
        status = dict(line.split(":\t", 1) for line in run(pod, "sh", "-c", STATUS).out.splitlines())
        assert status["Name"] == "minidlnad"
        assert set(status["Uid"].split()) == {"1000740000"}
        assert int(status["CapEff"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        for path in ("/media/x", "/etc/media/x", "/tmp/x", "/var/x"):
            assert run(pod, "touch", path).code != 0, path

        restart(pod)
        again = until(lambda: ask(pod, cluster.sender), "it serves again")
        assert again == first, "the same identity"
        pod.get_wrapped_container().kill("SIGTERM")
        assert exit_code(pod) == 0


def test_two_servers_are_found_and_played_from_a_lan(
    servers: Servers, film: Medium, cluster: Cluster, lan: Network
) -> None:
    names = ("media-0", "media-1")
    pods = [servers.pod(name) for name in names]
    television = restricted(cluster.images.sender, network=lan)
    with started(pods[0]), started(pods[1]), started(television):
        for pod in pods:
            until(partial(ask, pod, cluster.sender), "it serves")
            until(lambda pod=pod: "finished (1 files)" in log(pod), "it has looked through the films")  # type: ignore[misc]
        with relayed(cluster, lan) as relay:
            search = ("fanout", "ssdp", "search", "--st", "upnp:rootdevice", "--timeout", "1", "-o", "json")
            devices: list[dict[str, Any]] = []

            def are_found() -> bool:
                devices[:] = json.loads(run(television, *search).out or "{}").get("devices", [])
                return sorted(each["friendly_name"] or "" for each in devices) == [f"Films ({name})" for name in names]

            until(are_found, lambda: f"both are found, not {devices}")
            edge = f"http://{address(relay, lan)}:"
            ports = {int(each["location"].removeprefix(edge).partition("/")[0]) for each in devices}
            assert len(ports) == 2
            assert ports <= set(range(28200, 28232))
            for each in devices:
                played = run(television, "python3", "-c", PLAY, each["location"])
                assert played.code == 0, played.err
                [(url, digest)] = json.loads(played.out).items()
                assert url.startswith(each["location"].removesuffix("/rootDesc.xml")), "on the LAN, by the same port"
                assert digest == film.sha256
            relay.get_wrapped_container().kill("SIGTERM")
            assert exit_code(relay) == 0
