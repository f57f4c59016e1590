"""`kubectl kustomize`, as whoever deploys to any Kubernetes runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.manifest_changes import Manifest
from tests.support.needs import unavailable
from tests.support.waiting import PATIENCE


def kustomized(folder: Path) -> list[Manifest]:
    """Return the objects that a folder is built into; skip the test where there is no kubectl."""
    # That of the virtual environment before the machine's: Debian 12 has one that is too old (1.20).
    kubectl = shutil.which("kubectl", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if kubectl is None:
        unavailable("kubectl", "there is no kubectl")
    built = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, text=True, timeout=PATIENCE)
    return list(yaml.safe_load_all(built.stdout))
