"""Break one thing in the objects of a deployment, to see that a rule finds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Manifest = dict[str, Any]
Break = Callable[[list[Manifest]], None]


def set_at(target: Callable[[list[Manifest]], Any], *path: Any, value: Any) -> Break:
    """Return a function that sets what lies at `path` below `target`; `value=None` deletes it."""

    def change(objects: list[Manifest]) -> None:
        node = target(objects)
        for step in path[:-1]:
            node = node[step]
        if value is None:
            del node[path[-1]]
        else:
            node[path[-1]] = value

    return change


def find(objects: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """Return the first object of that kind, and of that name."""
    return next(item for item in objects if item["kind"] == kind and name in (None, item["metadata"]["name"]))
