"""The strict schemas of Kubernetes, each of which is read once: one version of them has two megabytes."""

from __future__ import annotations

import functools
from unittest import mock

import kubernetes_validate  # type: ignore[import-untyped]

from tests.support.manifest_changes import Manifest

ValidationError = kubernetes_validate.ValidationError
_read = functools.lru_cache(maxsize=16)(kubernetes_validate.utils.schema_contents)


def assert_valid(item: Manifest, version: str) -> None:
    """Hold an object against its schema in that version, which is to be known; raise `ValidationError`."""
    with mock.patch.object(kubernetes_validate.utils, "schema_contents", _read):
        assert kubernetes_validate.validate(item, version, strict=True) == version
