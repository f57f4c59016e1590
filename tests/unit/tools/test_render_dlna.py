"""The overlay dlna: a relay that its command takes, servers with an identity each, and films that none can change."""

from __future__ import annotations

import re
from typing import Any

import click
import pytest
import yaml

import manifests
import render
import rules
from fanout.cli.commands.relay_ssdp import ssdp
from tests.support.manifest_changes import Manifest, find
from tests.support.schemas import assert_valid
from tests.support.tree import ROOT

OVERLAY = ROOT / "deployments" / "overlays" / "dlna"


def deployed(**parameters: str) -> list[Manifest]:
    return render.render("Dlna", parameters)[0]


def relay(objects: list[Manifest]) -> manifests.PodSpec:
    return next(pod for pod in manifests.pods(objects) if pod.is_relay)


def servers(objects: list[Manifest]) -> manifests.PodSpec:
    return next(pod for pod in manifests.pods(objects) if not pod.is_relay)


def options(objects: list[Manifest], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what `fanout relay ssdp` understands of the relay's arguments and environment."""
    container = relay(objects).containers[0]
    command, *arguments = container["args"]
    assert command == "ssdp"
    for name, value in manifests.environment(container).items():
        monkeypatch.setenv(name, value)
    parsed: dict[str, Any] = click.Command.make_context(ssdp, "ssdp", arguments).params
    return parsed


def test_the_relay_is_told_what_its_command_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    told = options(deployed(), monkeypatch)
    assert (told["service"], told["interface"], told["http_ports"]) == ("media", "eth0", "28200-28231")
    assert told["descriptions"] == ("8200/rootDesc.xml",)
    assert "192.168.0.0/16" in told["allow_source"], "an empty variable is the default"
    assert told["admin_port"] == 21501


def test_the_relay_is_told_of_other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = deployed(MEDIA_PORT="49152", DESCRIPTION="", ALLOW_SOURCE="192.168.1.0/24 10.0.0.7", INTERFACE="br-ex")
    assert rules.problems(objects) == []
    told = options(objects, monkeypatch)
    assert told["descriptions"] == ()
    assert told["allow_source"] == ("192.168.1.0/24", "10.0.0.7")
    assert told["interface"] == "br-ex"
    port = servers(objects).containers[0]["ports"][0]
    assert port == {"name": "http", "protocol": "TCP", "containerPort": 49152}


def test_only_the_relay_has_a_privilege() -> None:
    objects = deployed()
    pod, media = relay(objects), servers(objects)
    assert (pod.spec["hostNetwork"], pod.spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert (pod.item["spec"]["replicas"], pod.item["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert pod.spec["serviceAccountName"] == "relay-dlna"
    for key in ("hostNetwork", "serviceAccountName", "hostPort"):
        assert key not in str(media.item)
    assert media.item["kind"] == "StatefulSet"
    assert "initContainers" not in media.spec


def test_films_are_read_only_and_the_rest_is_the_pods_own() -> None:
    media = servers(deployed())
    volumes = {volume["name"]: volume for volume in media.spec["volumes"]}
    assert volumes["media"]["persistentVolumeClaim"] == {"claimName": "media", "readOnly": True}
    assert volumes["state"] == {"name": "state", "emptyDir": {"sizeLimit": "1Gi"}}
    writable = [each["name"] for each in media.containers[0]["volumeMounts"] if not each.get("readOnly")]
    assert writable == ["state"]
    claim = find(deployed(MEDIA_ACCESS_MODE="ReadOnlyMany", MEDIA_SIZE="2Ti"), "PersistentVolumeClaim")["spec"]
    assert claim == {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "2Ti"}}}


def test_the_pod_that_takes_films_is_restricted_too() -> None:
    """It is in the README.md only: nothing of the deployment can write to the films."""
    text = (OVERLAY / "README.md").read_text(encoding="utf-8")
    [pod] = [yaml.safe_load(block) for block in re.findall("```yaml\n(.*?)```", text, flags=re.DOTALL)]
    assert_valid(pod, "1.37")
    objects = [*deployed(), pod]
    mounted = "Pod/films: volume media must be read-only at its source"
    allowed = ("a NetworkPolicy must limit", "Pod/films: mount /media must be read-only", mounted)
    assert [each for each in rules.problems(objects) if not any(part in each for part in allowed)] == []
    assert pod["spec"]["containers"][0]["image"] == servers(objects).containers[0]["image"]


def test_what_the_containerfile_serves_is_what_is_deployed() -> None:
    text = (OVERLAY / "Containerfile").read_text(encoding="utf-8")
    assert re.search(r"^USER \d+$", text, re.MULTILINE), "a number, or runAsNonRoot cannot be checked"
    assert "EXPOSE 8200/tcp" in text
    assert "exec minidlnad " in find(deployed(), "ConfigMap")["data"]["start"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"REPLICAS": "32", "MEDIA_ACCESS_MODE": "ReadWriteOnce"},
        {"HTTP_FIRST_PORT": "20000", "HTTP_LAST_PORT": "20999", "ADMIN_PORT": "8081", "REPLICAS": "0"},
        {"MEDIA_PORT": "8096", "DESCRIPTION": "8096/dlna/0123456789abcdef0123456789abcdef/description.xml"},
        {"NODE_SELECTOR": '{"kubernetes.io/hostname": "worker-1"}', "NODE_NETWORK": "fd00:10::/64"},
    ],
)
def test_parameters_that_go_together(parameters: dict[str, str]) -> None:
    assert rules.problems(deployed(**parameters)) == []


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("INTERFACE=much-too-long-a-name", "must be the name of an interface; got 'much-too-long-a-name'"),
        ("HTTP_LAST_PORT=28100", "the range '28200-28100' must ascend: write 28100-28200"),
        ("HTTP_LAST_PORT=29500", "ports must be at most 1,024; got 1,301 ('28200-29500')"),
        ("HTTP_FIRST_PORT=", "parameter HTTP_FIRST_PORT is required"),
        ("ADMIN_PORT=28201", "must not hold the admin port 28201; got 28200-28231"),
        ("REPLICAS=33", "must be 33 at least, one for each server; got 32"),
        ("MEDIA_PORT=80", "Service/media: port and targetPort must be one number from 1024 to 65535; got 80, 80"),
        ("MEDIA_PORT=8096", "FANOUT_DESCRIPTION must ask a TCP port of Service/media; got 8200/rootDesc.xml"),
        ("DESCRIPTION=rootDesc.xml", "a description must be PORT/PATH such as 8200/rootDesc.xml"),
        ("ALLOW_SOURCE=192.168.1.1/24", "no bits set beyond the mask; got '192.168.1.1/24'"),
        (
            "MEDIA_ACCESS_MODE=RWX",
            r"accessModes must be one of ReadWriteMany, ReadOnlyMany, ReadWriteOnce; got ['RWX']",
        ),
        ("NODE_NETWORK=0.0.0.0/0", "its egress must be limited to networks of the nodes"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(
    assignment: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render.main(["Dlna", "-p", assignment, "--stdout"]) != 0
    output = capsys.readouterr()
    assert output.out == ""
    assert sentence in output.err
