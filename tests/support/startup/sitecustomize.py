"""Imported by each Python that starts with this folder on its path: changes limits as `tests.support.limits` says."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

VARIABLE = "LIMITS_OF_TESTS"


def put(limit: str, value: float) -> float:
    """Change `module:place.of.limit`, and return what it was."""
    module, _, place = limit.partition(":")
    *path, name = place.split(".")
    holder: Any = import_module(module)
    for part in path:
        holder = getattr(holder, part)
    values = holder if isinstance(holder, dict) else vars(holder)
    before: float = values[name]
    if isinstance(holder, dict):
        holder[name] = value
    else:
        setattr(holder, name, value)
    return before


class _Finder:
    """Finds modules as usual, and changes the limits of each that has some once its code has run."""

    def __init__(self, limits: dict[str, float]) -> None:
        self._limits = limits

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        own = {limit: value for limit, value in self._limits.items() if limit.partition(":")[0] == name}
        spec = PathFinder.find_spec(name, path, target) if own else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            for limit, value in own.items():
                put(limit, value)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


if VARIABLE in os.environ:
    _pairs = (pair.split("=") for pair in os.environ[VARIABLE].split())
    sys.meta_path.insert(0, _Finder({limit: (float if "." in value else int)(value) for limit, value in _pairs}))
