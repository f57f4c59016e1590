"""What starts a media server of the overlay dlna: an identity that outlives the pod."""

from __future__ import annotations

import re
import subprocess
import uuid
from pathlib import Path

import render
from tests.support.manifest_changes import Manifest, find
from tests.support.waiting import PATIENCE


def deployed(**parameters: str) -> list[Manifest]:
    return render.render("Dlna", parameters)[0]


def start(script: str, tmp_path: Path, pod: str, namespace: str = "media") -> dict[str, str]:
    """Run what starts a server, where it is told to write, and return what it would serve by."""
    (tmp_path / "minidlna.conf").write_text(find(deployed(), "ConfigMap")["data"]["minidlna.conf"])
    script = re.sub("^exec .*", "", script.replace("/state", "state"), flags=re.MULTILINE)
    script = script.replace("/etc/media", ".")
    environment = {"POD_NAME": pod, "POD_NAMESPACE": namespace, "FRIENDLY_NAME": "Films", "PATH": "/usr/bin:/bin"}
    subprocess.run(["/bin/sh", "-c", script], check=True, cwd=tmp_path, env=environment, timeout=PATIENCE)
    lines = (tmp_path / "state" / "minidlna.conf").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_every_server_has_an_identity_that_outlives_it(tmp_path: Path) -> None:
    script = find(deployed(), "ConfigMap")["data"]["start"]
    first, again, second = (start(script, tmp_path / run, pod) for run, pod in mkdirs(tmp_path))
    assert first == again, "a pod that has the same name is the same device"
    assert first["uuid"] != second["uuid"]
    identity = uuid.UUID(first["uuid"])
    assert (str(identity), identity.variant, identity.version) == (first["uuid"], uuid.RFC_4122, 3)
    assert (first["friendly_name"], second["friendly_name"]) == ("Films (media-0)", "Films (media-1)")
    assert (first["port"], first["media_dir"]) == ("8200", "V,/media")
    assert first["db_dir"].startswith(str(tmp_path)) is False, "the configuration is the ConfigMap's"
    assert start(script, tmp_path / "a", "media-0", "other")["uuid"] != first["uuid"], "another project's is another"


def mkdirs(tmp_path: Path) -> list[tuple[str, str]]:
    runs = [("a", "media-0"), ("b", "media-0"), ("c", "media-1")]
    for name, _ in runs:
        (tmp_path / name).mkdir()
    return runs
