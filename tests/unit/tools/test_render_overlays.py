"""The overlays: relays that bring the outside in, on top of the base or alone, and what they are rendered into."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import yaml

import manifests
import render
import rules
from fanout.relay.core.ingress import Ingress
from tests.support.manifest_changes import Manifest, find
from tests.support.overlays import FOLDERS, NAMES, deployed, its_namespace
from tests.support.schemas import assert_valid
from tests.support.tree import ROOT

KUBERNETES_VERSIONS = ["1.26", "1.31", "1.37"]


def relay(objects: list[Manifest]) -> manifests.PodSpec:
    return next(pod for pod in manifests.pods(objects) if pod.is_relay)


def settings(pod: manifests.PodSpec) -> dict[str, str]:
    return manifests.environment(pod.containers[0])


def test_multicast_reaches_the_receivers_of_the_base() -> None:
    objects = deployed("Multicast")
    pod = relay(objects)
    assert pod.annotations["k8s.v1.cni.cncf.io/networks"] == "eth1-multicast@eth1"
    assert settings(pod) | {"FANOUT_LOG_LEVEL": ""} == {
        "FANOUT_LISTEN": "mcast://224.0.67.67:5001@eth1",
        "FANOUT_SERVICE": "headless-udp",
        "FANOUT_TO_PORT": "12000",
        "FANOUT_PORT": "12000",
        "FANOUT_ALLOW_SOURCE": "",
        "FANOUT_ADMIN_HOST": "$(POD_IP)",
        "FANOUT_ADMIN_PORT": "8080",
        "FANOUT_LOG_LEVEL": "",
    }
    assert "hostNetwork" not in pod.spec
    assert "serviceAccountName" not in pod.spec
    assert [item["kind"] for item in render.render("Multicast", {})[0]] == [
        "NetworkAttachmentDefinition",
        "Deployment",
        "NetworkPolicy",
    ]
    assert find(objects, "StatefulSet")["metadata"]["name"] == "statefulset-udp-server"


def test_rtp_reaches_four_replicas_that_take_no_port_of_the_node() -> None:
    objects = deployed("Rtp")
    pod = relay(objects)
    assert (pod.spec["hostNetwork"], pod.spec["dnsPolicy"], pod.spec["enableServiceLinks"]) == (
        True,
        "ClusterFirstWithHostNet",
        False,
    )
    assert pod.item["spec"]["strategy"] == {"type": "Recreate"}
    ingress = Ingress.parse(settings(pod)["FANOUT_LISTEN"], service=settings(pod)["FANOUT_SERVICE"])
    assert [ingress.port_at_pods(port) for port in ingress.ports] == [32546, 32547, 32548, 32549]
    analytics = find(objects, "Deployment", "analytics")
    assert analytics["spec"]["replicas"] == 4
    assert "hostPort" not in str(analytics)
    assert "hostNetwork" not in str(analytics)
    assert [item["kind"] for item in objects if item["kind"] in {"ServiceAccount", "RoleBinding"}] == [
        "ServiceAccount",
        "RoleBinding",
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_objects_pass_the_strict_schema(name: str, version: str) -> None:
    """Rules of our own hold the NetworkAttachmentDefinition, which no schema of Kubernetes knows."""
    for item in render.render(name, its_namespace(name))[0]:
        if item["kind"] != "NetworkAttachmentDefinition":
            assert_valid(item, version)


@pytest.mark.parametrize("name", FOLDERS)
def test_rendered_manifests_are_listed_and_hold_every_rule(name: str) -> None:
    """Without kubectl too: the files of an overlay and of its base are what the rules were held against."""
    objects = _files(FOLDERS[name]) + (_files("base") if name == "Multicast" else [])
    assert rules.problems(objects) == []
    listed = yaml.safe_load((ROOT / "deployments" / FOLDERS[name] / "kustomization.yaml").read_text())["resources"]
    assert ("../../base" in listed) is (name == "Multicast")
    assert len(listed) == len(_files(FOLDERS[name])) + (name == "Multicast")


def test_manifests_that_span_lines_can_be_read() -> None:
    """A configuration or an SDP in quotes, with \\n in it, is nothing that a person can change."""
    for folder in FOLDERS.values():
        for path in (ROOT / "deployments" / folder).glob("*.yaml"):
            assert "\\n" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Multicast", {"PORT": "15000", "ADMIN_PORT": "9090"}),
        ("Multicast", {"GROUP": "10.0.0.12,232.1.2.3", "INTERFACE": "net1", "PARENT_INTERFACE": "ens4"}),
        ("Multicast", {"GROUP": "[ff15::67]", "ALLOW_SOURCE": "fd00::/8 10.0.0.12", "GROUP_PORT": "5004"}),
        ("Multicast", {"SUBNET": "fd00::/64", "RANGE_START": "fd00::10", "RANGE_END": "fd00::20"}),
        ("Rtp", {"NODE_SELECTOR": '{"kubernetes.io/hostname": "worker-1"}', "REPLICAS": "8", "ADMIN_PORT": "21501"}),
        (
            "Rtp",
            {"VIDEO_PORT": "5004", "VIDEO_RTCP_PORT": "5005", "AUDIO_PORT": "5006", "AUDIO_RTCP_PORT": "5007"},
        ),
    ],
)
def test_parameters_that_go_together(name: str, parameters: dict[str, str]) -> None:
    assert rules.problems(deployed(name, **parameters)) == []


def test_a_node_selector_is_an_object() -> None:
    chosen = deployed("Rtp", NODE_SELECTOR='{"kubernetes.io/hostname": "worker-1"}')
    assert relay(chosen).spec["nodeSelector"] == {"kubernetes.io/hostname": "worker-1"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["Multicast", "-p", "GROUP=10.0.0.1"],
            "group must be a multicast address (224.0.0.0/4, ff00::/8); got 10.0.0.1",
        ),
        (["Multicast", "-p", "INTERFACE=much-too-long-a-name"], "interface must be a name such as eth1, as `ls /sys"),
        (["Multicast", "-p", "ALLOW_SOURCE=10.0.0.1/8"], "no bits set beyond the mask; got '10.0.0.1/8'"),
        (
            ["Multicast", "-p", "RANGE_END=192.168.68.1"],
            "range must ascend within 192.168.67.0/24; got 192.168.67.240 to 192.168.68.1",
        ),
        (["Multicast", "-p", 'PARENT_INTERFACE=e"1'], "config must be JSON: "),
        (["Rtp", "-p", "AUDIO_RTCP_PORT=32540"], "the range 32546-32540 must ascend: write 32540-32546"),
        (["Rtp", "-p", "AUDIO_RTCP_PORT=32550"], "must go to ports of Service/analytics; got 32549"),
        (["Rtp", "-p", "NODE_NETWORK=10.0.0.1/16"], "must take UDP from networks of the nodes"),
        (["Rtp", "-p", "NODE_SELECTOR=worker-1"], "nodeSelector must be a mapping of labels; got 'worker-1'"),
        (["Rtp", "-p", "REPLICAS=all"], "replicas must be a number of at least 0; got 'all'"),
        (["Rtp", "-p", "ADMIN_PORT=80"], "the admin port must be a number from 1024 to 65535; got '80'"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render.main([*arguments, "--stdout"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert sentence in output.err


def test_only_the_objects_of_the_template_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert render.main(["Multicast", "-p", "PORT=15000", "--stdout"]) == 0
    printed: Any = list(yaml.safe_load_all(capsys.readouterr().out))
    assert printed == render.render("Multicast", {"PORT": "15000"})[0]


@functools.cache
def _files(folder: str) -> list[Manifest]:
    paths = sorted((ROOT / "deployments" / folder).glob("*.yaml"))
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths if path.name != "kustomization.yaml"]
