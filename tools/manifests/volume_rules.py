"""What the volumes of a deployment must hold: who may write where, and whose films are whose.

Rules as those of rules.py, where they are put to use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from manifests import Manifest, pods

_KINDS = ("configMap", "secret", "persistentVolumeClaim", "emptyDir")


def volumes_are_seen(objects: list[Manifest]) -> Iterator[str]:
    """A volume is a Secret that may be missing, a ConfigMap or claim that is there, or a bounded place of its own.

    No pod can change any but the last.
    """
    known = {(item["kind"], item["metadata"]["name"]) for item in objects}
    for pod in pods(objects):
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        for name, volume in volumes.items():
            yield from (f"{pod.owner}: volume {name}{problem}" for problem in _source(volume, known))
        for container in pod.containers:
            for mount in container.get("volumeMounts", []):
                where = f"{pod.owner}: mount {mount['mountPath']}"
                if mount["name"] not in volumes:
                    yield f"{where}: there is no volume {mount['name']}"
                if not mount.get("readOnly") and "emptyDir" not in volumes.get(mount["name"], {}):
                    yield f"{where} is not read-only"
                if "subPath" in mount:
                    yield f"{where} has a subPath, so a new content is not seen before the pod is restarted"


def _source(volume: Manifest, known: set[tuple[str, str]]) -> Iterator[str]:
    kinds = volume.keys() - {"name"}
    if len(kinds) != 1 or not kinds <= set(_KINDS):
        yield " is no Secret, no ConfigMap, no claim and no place of the pod's own"
    elif "configMap" in kinds and ("ConfigMap", volume["configMap"]["name"]) not in known:
        yield f": ConfigMap {volume['configMap']['name']} is not of this deployment"
    elif "secret" in kinds and not volume["secret"].get("optional"):
        yield " is not optional, so no pod starts before its Secret is there"
    elif "emptyDir" in kinds and not volume["emptyDir"].get("sizeLimit"):
        yield " has no sizeLimit, so it may fill the disk of its node"
    elif "persistentVolumeClaim" in kinds:
        claim = volume["persistentVolumeClaim"]
        if ("PersistentVolumeClaim", claim["claimName"]) not in known:
            yield f": claim {claim['claimName']} is not of this deployment"
        if not claim.get("readOnly"):
            yield " is not read-only at its source, so the kubelet may change the owner of all that is in it"


RULES: tuple[Callable[[list[Manifest]], Iterator[str]], ...] = (volumes_are_seen,)
