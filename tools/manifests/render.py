"""`oc process` without a cluster: renders the Templates of deployments for any Kubernetes.

    python tools/manifests/render.py                                     write base and overlays (make manifests)
    python tools/manifests/render.py --check                             exit 1 where one of them is stale
    python tools/manifests/render.py -p REPLICAS=5 --stdout              print the objects (| kubectl apply -f -)
    python tools/manifests/render.py Rtp -p ALLOW_SOURCE=10.0.0.12 --stdout    those of another Template

A Secret whose value the cluster would generate is left out, unless the value is given: no file is the place for it.
What is rendered is held against tools/manifests/rules.py, an overlay together with its base, so that parameters that do
not go together are refused here and not discovered in the cluster. Exit codes: 0 done, 1 stale or against a rule,
2 usage.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from manifests import Manifest
from rules import problems

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"


class RenderTarget(NamedTuple):
    """Where the objects of a Template are written, and beside which others they run."""

    folder: Path
    base: str = ""
    """The Template whose objects they need."""
    namespace: str = ""
    """For objects that must name their namespace; a kustomization on top chooses another."""


TARGETS = {
    "Deploy": RenderTarget(DEPLOYMENTS / "base"),
    "Multicast": RenderTarget(DEPLOYMENTS / "overlays" / "multus-multicast", base="Deploy"),
    "Rtp": RenderTarget(DEPLOYMENTS / "overlays" / "hostnetwork-rtp", namespace="udp"),
    "Dlna": RenderTarget(DEPLOYMENTS / "overlays" / "dlna", namespace="media"),
}
HEADER = "# Rendered from deployments/{}.yaml by `make manifests`: change that file, not this one.\n"

# The two kinds of reference of template.openshift.io/v1: inside a text, and as the whole of a typed value.
_TEXT = re.compile(r"\$\{([a-zA-Z0-9_]+)\}")
_TYPED = re.compile(r"\$\{\{([a-zA-Z0-9_]+)\}\}")


class TemplateError(Exception):
    """A Template or parameters that cannot be processed; its text is one sentence."""


def process(template: Manifest, parameters: Mapping[str, str] | None = None) -> list[Manifest]:
    """Return the objects that `oc process` makes of the Template; `parameters` go before its defaults."""
    values = parameter_values(template, parameters or {})
    labels = substitute(template.get("labels") or {}, values)
    generated = [each["name"] for each in template.get("parameters") or [] if each["name"] not in values]
    objects: list[Manifest] = []
    for item in template["objects"]:
        missing = [name for name in generated if f"${{{name}}}" in str(item)]
        if missing and item["kind"] == "Secret":
            continue
        if missing:
            raise TemplateError(f"parameter {missing[0]} is generated: give it a value, or let the cluster process it")
        rendered = substitute(copy.deepcopy(item), values)
        metadata = rendered.setdefault("metadata", {})
        if labels:
            # On the object itself only, as the server does: a pod template keeps its own labels.
            metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
        objects.append(rendered)
    return objects


def parameter_values(template: Manifest, given: Mapping[str, str]) -> dict[str, str]:
    """Return the value of every parameter; raise `TemplateError` for an unknown or a missing one.

    One that the cluster would generate has no value, unless it is given.
    """
    declared = {parameter["name"]: parameter for parameter in template.get("parameters") or []}
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise TemplateError(f"unknown parameter {', '.join(unknown)} (there are {', '.join(declared)})")
    values = {}
    for name, parameter in declared.items():
        if "generate" in parameter and not given.get(name):
            continue
        values[name] = given[name] if name in given else str(parameter.get("value") or "")
        if parameter.get("required") and not values[name]:
            raise TemplateError(f"parameter {name} is required and has no value: add -p {name}=...")
    return values


def substitute(node: Any, values: Mapping[str, str]) -> Any:
    """Return `node` with every reference replaced; one to an unknown parameter stays as it is."""
    if isinstance(node, dict):
        return {_text(key, values): substitute(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [substitute(value, values) for value in node]
    if not isinstance(node, str):
        return node
    typed = _TYPED.fullmatch(node)
    if typed and typed[1] in values:
        try:
            return json.loads(values[typed[1]])
        except ValueError:
            # As on the server: what is not a JSON value is a string after all.
            return values[typed[1]]
    return _text(node, values)


def _text(text: str, values: Mapping[str, str]) -> str:
    return _TEXT.sub(lambda reference: values.get(reference[1], reference[0]), text)


class _Dumper(yaml.SafeDumper):
    """YAML as people write it: lists indented, nothing by reference."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def to_yaml(document: Manifest) -> str:
    """Return one document of YAML, its keys in the order of the Template."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def rendered_files(name: str, objects: Iterable[Manifest]) -> dict[str, str]:
    """Return the files of a Template's folder: one an object, and the kustomization that lists them."""
    target, header = TARGETS[name], HEADER.format(name)
    files = {
        f"{item['kind']}-{item['metadata']['name']}.yaml".lower(): header + to_yaml(_unbound(item)) for item in objects
    }
    kustomization: Manifest = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    if target.namespace:
        kustomization["namespace"] = target.namespace
    base = [f"../../{TARGETS[target.base].folder.name}"] if target.base else []
    kustomization["resources"] = [*base, *files]
    files["kustomization.yaml"] = header + to_yaml(kustomization)
    return files


def _unbound(item: Manifest) -> Manifest:
    """Leave out the namespace of subjects that name none: kustomize puts its own there, unless it is empty."""
    if "subjects" not in item:
        return item
    subjects = [{key: value for key, value in each.items() if value or key != "namespace"} for each in item["subjects"]]
    return {**item, "subjects": subjects}


def stale_files(files: Mapping[str, str], folder: Path) -> list[str]:
    """Return the names of the files in `folder` that are missing, different or no longer rendered."""
    present = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))}
    return sorted(name for name in files.keys() | present.keys() if files.get(name) != present.get(name))


def write_files(files: Mapping[str, str], folder: Path) -> None:
    """Make `folder` hold exactly these manifests."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in stale_files(files, folder):
        if name in files:
            (folder / name).write_text(files[name], encoding="utf-8")
        else:
            (folder / name).unlink()


def load_template(name: str = "Deploy") -> Manifest:
    """Return a Template of this folder, which is the caller's to change."""
    return copy.deepcopy(_read_template(name))


@functools.cache
def _read_template(name: str) -> Manifest:
    """Read it once: to parse it takes longer than all that is done with it."""
    template: Manifest = yaml.safe_load((DEPLOYMENTS / f"{name}.yaml").read_text(encoding="utf-8"))
    return template


def render(name: str, given: Mapping[str, str]) -> tuple[list[Manifest], list[Manifest]]:
    """Return the objects of a Template, and those of its base, which takes the parameters that both have."""
    template, beside = load_template(name), TARGETS[name].base
    if not beside:
        return process(template, given), []
    base = load_template(beside)
    declared = {parameter["name"] for parameter in base["parameters"]}
    return process(template, given), process(base, {key: value for key, value in given.items() if key in declared})


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="render.py", description="Render Templates of deployments for any Kubernetes."
    )
    parser.add_argument("template", nargs="?", choices=TARGETS, help="the Template to print (Deploy)")
    parser.add_argument("-p", dest="parameters", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--check", action="store_true", help="exit 1 where what is rendered is stale")
    parser.add_argument("--stdout", action="store_true", help="print the objects instead of writing them")
    options = parser.parse_args(arguments)
    if options.check and options.stdout:
        parser.error("--check and --stdout exclude each other")
    if (options.parameters or options.template) and not options.stdout:
        parser.error("what is written holds the defaults of all Templates: add --stdout to print the objects of one")
    return options


def _given(assignments: Iterable[str]) -> dict[str, str]:
    given = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise TemplateError(f"-p {assignment}: write NAME=VALUE")
        given[name] = value
    return given


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parse(arguments)
    code = 0
    for name in [options.template or "Deploy"] if options.stdout else TARGETS:
        try:
            objects, beside = render(name, _given(options.parameters))
        except TemplateError as error:
            print(f"render.py: {error}", file=sys.stderr)
            return 2
        found = problems([*beside, *objects])
        for problem in found:
            print(f"render.py: {problem}", file=sys.stderr)
        if found:
            return 1
        files, folder = rendered_files(name, objects), TARGETS[name].folder
        if options.stdout:
            print("---\n".join(to_yaml(item) for item in objects), end="")
        elif not options.check:
            write_files(files, folder)
        elif stale := stale_files(files, folder):
            print(f"render.py: stale in {folder.name}: {', '.join(stale)}; run `make manifests`", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
