"""`kubectl kustomize` builds what `oc process` makes of the Templates: the base and each overlay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import manifests
import render
import rules
from tests.support.kustomize import kustomized
from tests.support.manifest_changes import Manifest, find
from tests.support.overlays import NAMES, deployed, its_namespace
from tests.support.tree import ROOT

OVERLAYS = ROOT / "deployments" / "overlays"


def test_the_base_is_what_its_template_has() -> None:
    built = kustomized(ROOT / "deployments" / "base")
    assert _by_name(built) == _by_name(render.process(render.load_template()))


@pytest.mark.parametrize("name", NAMES)
def test_kubectl_kustomize_gives_what_oc_process_gives(name: str) -> None:
    built = kustomized(render.TARGETS[name].folder)
    expected = deployed(name, **its_namespace(name))
    for item in expected:
        item["metadata"] |= {key.lower(): value for key, value in its_namespace(name).items()}
    assert _by_name(built) == _by_name(expected)
    for item in built:
        item["metadata"].pop("namespace", None)
    assert rules.problems(built) == []


def test_a_kustomization_on_top_chooses_the_namespace(tmp_path: Path) -> None:
    folder = tmp_path / "deployments" / "overlays" / "mine"
    shutil.copytree(OVERLAYS, folder.parent)
    folder.mkdir()
    (folder / "kustomization.yaml").write_text("namespace: cameras\nresources: [../hostnetwork-rtp]\n")
    built = kustomized(folder)
    assert {item["metadata"]["namespace"] for item in built} == {"cameras"}
    [subject] = find(built, "RoleBinding")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "relay-rtp", "namespace": "cameras"}


def _by_name(objects: list[Manifest]) -> dict[str, Manifest]:
    return {manifests.name_of(item): item for item in objects}
