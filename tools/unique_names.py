"""A class name stands once in the tree: exit 1 and name those that stand in two modules or more.

python tools/unique_names.py FOLDER...
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path


def classes(source: str) -> list[str]:
    """Return the names of the classes that a module defines, wherever in it."""
    return [node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]


def repeated(folders: list[str]) -> dict[str, list[str]]:
    """Return the class names that stand in several modules of these folders, and in which."""
    modules = defaultdict(set)
    for folder in folders:
        for path in Path(folder).rglob("*.py"):
            for name in classes(path.read_text(encoding="utf-8")):
                modules[name].add(str(path))
    return {name: sorted(paths) for name, paths in sorted(modules.items()) if len(paths) > 1}


if __name__ == "__main__":
    found = repeated(sys.argv[1:])
    for name, paths in found.items():
        print(f"class {name} stands in {len(paths)} modules; give all but one another name: {', '.join(paths)}")
    sys.exit(bool(found))
