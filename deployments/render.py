"""`oc process` without a cluster: renders deployments/Deploy.yaml into deployments/base for any Kubernetes.

    python deployments/render.py                           write deployments/base (make manifests)
    python deployments/render.py --check                   exit 1 where deployments/base is stale
    python deployments/render.py -p REPLICAS=5 --stdout    print the objects (| kubectl apply -f -)

A Secret whose value the cluster would generate is left out, unless the value is given: no file is the place for it.
What is rendered is held against deployments/rules.py, so that parameters that do not go together are
refused here and not discovered in the cluster. Exit codes: 0 done, 1 stale or against a rule, 2 usage.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rules import problems

Manifest = dict[str, Any]

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE / "Deploy.yaml"
BASE = HERE / "base"
HEADER = "# Rendered from deployments/Deploy.yaml by `make manifests`: change that file, not this one.\n"

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
            # As on the server: what is no JSON value is a text after all.
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


def to_yaml(document: Manifest) -> str:
    """Return one document of YAML, its keys in the order of the Template."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def base_files(objects: Iterable[Manifest]) -> dict[str, str]:
    """Return the files of deployments/base by name: one an object, and the kustomization that lists them."""
    files = {f"{item['kind']}-{item['metadata']['name']}.yaml".lower(): HEADER + to_yaml(item) for item in objects}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    files["kustomization.yaml"] = HEADER + to_yaml(kustomization)
    return files


def stale_files(files: Mapping[str, str], base: Path) -> list[str]:
    """Return the names of the files in `base` that are missing, different or no longer rendered."""
    present = {path.name: path.read_text(encoding="utf-8") for path in sorted(base.glob("*.yaml"))}
    return sorted(name for name in files.keys() | present.keys() if files.get(name) != present.get(name))


def write_base(files: Mapping[str, str], base: Path) -> None:
    """Make `base` hold exactly these files."""
    base.mkdir(exist_ok=True)
    for name in stale_files(files, base):
        if name in files:
            (base / name).write_text(files[name], encoding="utf-8")
        else:
            (base / name).unlink()


def load_template(path: Path = TEMPLATE) -> Manifest:
    """Read a Template from its file."""
    template: Manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    return template


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="render.py", description="Render deployments/Deploy.yaml for any Kubernetes.")
    parser.add_argument("-p", dest="parameters", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--check", action="store_true", help="exit 1 where deployments/base is stale")
    parser.add_argument("--stdout", action="store_true", help="print the objects instead of writing deployments/base")
    options = parser.parse_args(arguments)
    if options.check and options.stdout:
        parser.error("--check and --stdout exclude each other")
    if options.parameters and not options.stdout:
        parser.error("deployments/base holds the defaults: add --stdout to print objects with -p")
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
    try:
        objects = process(load_template(), _given(options.parameters))
    except TemplateError as error:
        print(f"render.py: {error}", file=sys.stderr)
        return 2
    found = problems(objects)
    for problem in found:
        print(f"render.py: {problem}", file=sys.stderr)
    if found:
        return 1
    files = base_files(objects)
    if options.stdout:
        print("---\n".join(to_yaml(item) for item in objects), end="")
    elif options.check:
        stale = stale_files(files, BASE)
        if stale:
            print(
                f"render.py: stale in deployments/base: {', '.join(stale)}; run `make manifests`",
                file=sys.stderr,
            )
            return 1
    else:
        write_base(files, BASE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
