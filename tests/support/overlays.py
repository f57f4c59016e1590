"""The Templates, and what is rendered of each: where it is, and with what beside it."""

from __future__ import annotations

import render
from tests.support.manifest_changes import Manifest

FOLDERS = {
    "Deploy": "base",
    "Multicast": "overlays/multus-multicast",
    "Rtp": "overlays/hostnetwork-rtp",
    "Dlna": "overlays/dlna",
}
NAMES = [name for name in FOLDERS if name != "Deploy"]


def deployed(name: str, **parameters: str) -> list[Manifest]:
    """Return everything that runs: a Template's objects and those of its base."""
    objects, beside = render.render(name, parameters)
    return [*beside, *objects]


def its_namespace(name: str) -> dict[str, str]:
    """Return the parameter that names a Template's namespace, as its overlay has it; nothing where it needs none."""
    namespace = render.TARGETS[name].namespace
    return {"NAMESPACE": namespace} if namespace else {}
