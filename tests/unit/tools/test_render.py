"""The manifests: one Template, what it is processed into, and what `make manifests` writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import manifests
import render
import rules
from fanout.protocol.seal import Keyring
from tests.support.schemas import ValidationError, assert_valid
from tests.support.tree import ROOT

DEPLOYMENTS = ROOT / "deployments"


Manifest = dict[str, Any]
# unhealthyPodEvictionPolicy is from 1.26 (OpenShift 4.13); each listed version has a schema of its own.
KUBERNETES_VERSIONS = ["1.26", "1.27", "1.29", "1.31", "1.33", "1.35", "1.37"]


@pytest.fixture(scope="module")
def template() -> Manifest:
    return render.load_template()


@pytest.fixture
def objects(template: Manifest) -> list[Manifest]:
    return render.process(template)


def find(objects: list[Manifest], kind: str) -> Manifest:
    return next(item for item in objects if item["kind"] == kind)


# What is deployed


def test_objects_are_those_of_the_workflow(objects: list[Manifest]) -> None:
    assert [(item["kind"], item["metadata"]["name"]) for item in objects] == [
        ("Service", "headless-udp"),
        ("StatefulSet", "statefulset-udp-server"),
        ("PodDisruptionBudget", "statefulset-udp-server"),
        ("Pod", "sender"),
        ("NetworkPolicy", "udp-receivers"),
        ("NetworkPolicy", "udp-sender"),
    ]
    service = find(objects, "Service")["spec"]
    assert service["clusterIP"] == "None"
    assert service["ports"] == [{"name": "udp", "protocol": "UDP", "port": 12000, "targetPort": 12000}]
    assert find(objects, "StatefulSet")["spec"]["replicas"] == 2
    assert find(objects, "StatefulSet")["spec"]["podManagementPolicy"] == "Parallel"


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_objects_pass_the_strict_schema(objects: list[Manifest], version: str) -> None:
    for item in objects:
        assert_valid(item, version)


def test_strict_schema_finds_a_misspelt_key(objects: list[Manifest]) -> None:
    find(objects, "StatefulSet")["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(ValidationError):
        assert_valid(find(objects, "StatefulSet"), KUBERNETES_VERSIONS[-1])


def test_rendered_manifests_are_not_stale() -> None:
    assert render.main(["--check"]) == 0, "run `make manifests`"


def test_only_templates_lie_where_oc_create_looks() -> None:
    """`oc create -f deployments` takes every manifest of the folder itself, and only those."""
    found = sorted(path.name for path in DEPLOYMENTS.iterdir() if path.suffix in {".yaml", ".yml", ".json"})
    assert found == ["Build.yaml", "Deploy.yaml", "Dlna.yaml", "Multicast.yaml", "Rtp.yaml"]
    for name in found:
        documents = list(yaml.safe_load_all((DEPLOYMENTS / name).read_text(encoding="utf-8")))
        assert [(item["apiVersion"], item["kind"]) for item in documents] == [("template.openshift.io/v1", "Template")]


# The Templates


def template_problems(template: Manifest) -> Iterator[str]:
    """What `oc process` would let pass: references to nothing, parameters for nothing, parameters unexplained."""
    declared = {parameter["name"] for parameter in template["parameters"]}
    used = set(re.findall(r"\$\{\{?(\w+)\}", yaml.safe_dump([template["objects"], template["labels"]], width=9999)))
    told = set(re.findall(r"\$\{(\w+)\}", template["message"]))
    yield from (f"{name} is used and not declared" for name in sorted((used | told) - declared))
    yield from (f"{name} is declared and not used" for name in sorted(declared - used))
    for parameter in template["parameters"]:
        for key in ("displayName", "description"):
            if not parameter.get(key):
                yield f"{parameter['name']} has no {key}"
        if parameter.get("required") and not isinstance(parameter.get("value"), str):
            yield f"{parameter['name']} has no default that is a text"
    for key in ("message", "labels"):
        if not template.get(key):
            yield f"no {key}"


@pytest.mark.parametrize("name", ["Deploy", "Build", "Multicast", "Rtp", "Dlna"])
def test_template_is_whole(name: str) -> None:
    assert list(template_problems(render.load_template(name))) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t["parameters"].pop(0), "RECEIVER_IMAGE is used and not declared"),
        (lambda t: t["objects"].clear(), "PORT is declared and not used"),
        (lambda t: t["parameters"][0].pop("description"), "RECEIVER_IMAGE has no description"),
        (lambda t: t["parameters"][0].pop("value"), "RECEIVER_IMAGE has no default that is a text"),
        (lambda t: t.update(message=""), "no message"),
    ],
)
def test_template_check_finds_what_is_broken(change: Callable[[Manifest], object], sentence: str) -> None:
    template = render.load_template()
    change(template)
    assert sentence in list(template_problems(template))


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("Deploy", "docs/openshift.md"),
        ("Build", "docs/openshift.md"),
        ("Multicast", "deployments/overlays/multus-multicast/README.md"),
        ("Rtp", "deployments/overlays/hostnetwork-rtp/README.md"),
        ("Dlna", "deployments/overlays/dlna/README.md"),
    ],
)
def test_documentation_lists_every_parameter_and_its_default(name: str, page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for parameter in render.load_template(name)["parameters"]:
        default = parameter.get("value") or ("generated" if "generate" in parameter else "empty")
        assert re.search(rf"`{parameter['name']}`.*?{re.escape(default)}", text), parameter["name"]


def test_builds_fill_the_images_that_are_deployed() -> None:
    built = render.process(render.load_template("Build"))
    streams = {item["metadata"]["name"]: item for item in built if item["kind"] == "ImageStream"}
    outputs = {}
    for item in built:
        assert "${" not in str(item)
        if item["kind"] == "BuildConfig":
            strategy = item["spec"]["strategy"]["dockerStrategy"]
            assert (ROOT / strategy["dockerfilePath"]).is_file()
            assert item["spec"]["source"] == {"type": "Binary", "binary": {}}
            outputs[item["metadata"]["name"]] = item["spec"]["output"]["to"]["name"]
    assert all(stream["spec"]["lookupPolicy"]["local"] is True for stream in streams.values())
    assert {name: f"{name}:latest" for name in streams} == outputs
    deployed = {
        container["image"]
        for name in render.TARGETS
        for pod in manifests.pods(render.render(name, {})[0])
        for container in filter(manifests.is_fanout, pod.containers)
    }
    assert deployed == set(outputs.values())


def test_containerfiles_build_the_same_first_stage() -> None:
    """The other builds then find it in the cache, and all images hold the same fanout."""
    parts = [
        (ROOT / f"apps/{app}/Containerfile").read_text(encoding="utf-8").split("FROM ${BASE_IMAGE}")
        for app in ("sender", "receiver", "relay")
    ]
    assert [len(part) for part in parts] == [3, 3, 3]
    assert len({part[0][part[0].index("ARG ") :] for part in parts}) == 1
    assert len({part[1] for part in parts}) == 1


# Processing


def test_processing_follows_oc_process() -> None:
    template: Manifest = {
        "labels": {"template": "t-${NAME}"},
        "parameters": [
            {"name": "NAME", "value": "a"},
            {"name": "COUNT", "value": "3"},
            {"name": "LIST", "value": '["x"]'},
            {"name": "EMPTY"},
        ],
        "objects": [
            {
                "kind": "ConfigMap",
                "metadata": {"name": "${NAME}-${NAME}", "labels": {"template": "own", "own": "${EMPTY}"}},
                "data": {
                    "key-${NAME}": "${COUNT}",
                    "typed": "${{COUNT}}",
                    "list": "${{LIST}}",
                    "word": "${{NAME}}",
                    "unknown": "${NOBODY} and ${{NOBODY}}",
                    "inside": "a${{COUNT}}",
                    "kept": 7,
                },
                "template": {"metadata": {}},
            }
        ],
    }
    [item] = render.process(template, {"NAME": "b"})
    assert item["metadata"] == {"name": "b-b", "labels": {"template": "t-b", "own": ""}}
    assert item["data"] == {
        "key-b": "3",
        "typed": 3,
        "list": ["x"],
        "word": "b",
        "unknown": "${NOBODY} and ${{NOBODY}}",
        "inside": "a${{COUNT}}",
        "kept": 7,
    }
    assert item["template"] == {"metadata": {}}
    assert template["objects"][0]["metadata"]["name"] == "${NAME}-${NAME}", "the Template itself is unchanged"


def test_parameters_reach_every_place(template: Manifest) -> None:
    objects = render.process(template, {"PORT": "15000", "REPLICAS": "5", "ADMIN_PORT": "9090"})
    assert rules.problems(objects) == []
    assert find(objects, "StatefulSet")["spec"]["replicas"] == 5
    text = yaml.safe_dump_all(objects)
    assert "12000" not in text
    assert "8080" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["-p", "NOPE=1", "--stdout"], 2, "unknown parameter NOPE (there are RECEIVER_IMAGE, "),
        (["-p", "REPLICAS=", "--stdout"], 2, "parameter REPLICAS is required and has no value"),
        (["-p", "REPLICAS", "--stdout"], 2, "-p REPLICAS: write NAME=VALUE"),
        (["-p", "PORT=udp", "--stdout"], 1, "the UDP port must be a number from 1024 to 65535; got 'udp'"),
        (
            ["-p", "DRAIN_SECONDS=60", "--stdout"],
            1,
            "grace period must be longer than the drain time of 60 s; got 30 s",
        ),
    ],
)
def test_bad_input_gets_one_clear_line(
    arguments: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render.main(arguments) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("render.py: ")
    assert sentence in output.err
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["-p", "REPLICAS=3"], ["Rtp"], ["Nope", "--stdout"], ["--check", "--stdout"], ["--what"]]
)
def test_usage_errors_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        render.main(arguments)
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_secret_that_the_cluster_would_generate_is_left_out_unless_it_is_given() -> None:
    secret: Manifest = {"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "${KEY}"}}
    template: Manifest = {
        "objects": [secret],
        "parameters": [{"name": "KEY", "generate": "expression", "from": "[a-z]{8}"}],
    }
    assert render.process(template) == render.process(template, {"KEY": ""}) == []
    [made] = render.process(template, {"KEY": "given"})
    assert made["stringData"] == {"key": "given"}
    secret["kind"] = "ConfigMap"
    with pytest.raises(render.TemplateError, match="parameter KEY is generated"):
        render.process(template)


# Sealed messages


def test_nothing_is_sealed_unless_it_is_asked_for_and_no_key_lies_in_a_file(objects: list[Manifest]) -> None:
    assert not [item for item in objects if item["kind"] == "Secret"]
    for name in ("StatefulSet", "Pod"):
        item = find(objects, name)
        spec = item["spec"].get("template", item)["spec"]
        assert {"name": "FANOUT_KEY_FILE", "value": ""} in spec["containers"][0]["env"]
        assert spec["volumes"] == [{"name": "key", "secret": {"secretName": "fanout-key", "optional": True}}]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_a_deployment_that_seals(template: Manifest, version: str) -> None:
    objects = render.process(template, {"KEY": "ab" * 32, "KEY_FILE": "/etc/fanout/key"})
    assert rules.problems(objects) == []
    secret = find(objects, "Secret")
    assert_valid(secret, version)
    assert secret["metadata"]["name"] == "fanout-key"
    assert Keyring.parse(secret["stringData"]["key"].encode(), "key").keys == (b"\xab" * 32,)


def test_what_the_cluster_generates_is_a_key(template: Manifest) -> None:
    """A class of characters and a length: that is all the generator knows."""
    [parameter] = [each for each in template["parameters"] if each["name"] == "KEY"]
    assert parameter["generate"] == "expression"
    generated = re.fullmatch(r"\[a-f0-9\]\{(\d+)\}", parameter["from"])
    assert generated is not None
    Keyring.parse(b"f0" * (int(generated[1]) // 2), "generated")


def test_printed_objects_are_those_processed(capsys: pytest.CaptureFixture[str], template: Manifest) -> None:
    assert render.main(["-p", "REPLICAS=7", "--stdout"]) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == render.process(template, {"REPLICAS": "7"})


def test_base_is_written_checked_and_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "TARGETS", {"Deploy": render.RenderTarget(tmp_path / "base")})
    assert render.main(["--check"]) == 1
    assert "stale in base: kustomization.yaml, " in capsys.readouterr().err
    assert render.main([]) == 0
    assert render.main(["--check"]) == 0
    (tmp_path / "base" / "service-headless-udp.yaml").write_text("changed by hand")
    (tmp_path / "base" / "gone.yaml").write_text("no longer rendered")
    assert render.main(["--check"]) == 1
    assert "stale in base: gone.yaml, service-headless-udp.yaml;" in capsys.readouterr().err
    assert render.main([]) == 0
    assert render.main(["--check"]) == 0
    listed = yaml.safe_load((tmp_path / "base" / "kustomization.yaml").read_text())["resources"]
    assert {path.name for path in (tmp_path / "base").iterdir()} == {*listed, "kustomization.yaml"}
