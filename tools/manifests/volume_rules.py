"""What the volumes of a deployment must hold: which exist, and who may write to them.

Rules as those of rules.py, where they are put to use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from manifests import Manifest, pods

_KINDS = ("configMap", "secret", "persistentVolumeClaim", "emptyDir")


def volumes_exist_and_are_read_only(objects: list[Manifest]) -> Iterator[str]:
    """A volume is a Secret that may be missing, a ConfigMap or claim that is there, or an emptyDir with a limit.

    A pod can write only to the last.
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
                    yield f"{where} must be of a volume of the pod; got {mount['name']}"
                if not mount.get("readOnly") and "emptyDir" not in volumes.get(mount["name"], {}):
                    yield f"{where} must be read-only"
                if "subPath" in mount:
                    yield f"{where} must have no subPath: new content would not be seen before the pod is restarted"


def _source(volume: Manifest, known: set[tuple[str, str]]) -> Iterator[str]:
    kinds = volume.keys() - {"name"}
    if len(kinds) != 1 or not kinds <= set(_KINDS):
        yield f" must be one of {', '.join(_KINDS)}; got {', '.join(sorted(kinds)) or 'none'}"
    elif "configMap" in kinds and ("ConfigMap", volume["configMap"]["name"]) not in known:
        yield f": ConfigMap must be of this deployment; got {volume['configMap']['name']}"
    elif "secret" in kinds and not volume["secret"].get("optional"):
        yield " must be optional: otherwise no pod starts before its Secret is there"
    elif "emptyDir" in kinds and not volume["emptyDir"].get("sizeLimit"):
        yield " must have a sizeLimit: otherwise it may fill the disk of its node"
    elif "persistentVolumeClaim" in kinds:
        claim = volume["persistentVolumeClaim"]
        if ("PersistentVolumeClaim", claim["claimName"]) not in known:
            yield f": claim must be of this deployment; got {claim['claimName']}"
        if not claim.get("readOnly"):
            yield " must be read-only at its source: otherwise the kubelet may change the owner of all that is in it"


RULES: tuple[Callable[[list[Manifest]], Iterator[str]], ...] = (volumes_exist_and_are_read_only,)
