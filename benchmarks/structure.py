"""How the code is cut: lines, class names that stand twice, private members of others, attributes and methods.

It reads the sources alone (`ast`). A private member is one whose name begins with one underscore. It is another file's
where the file that uses it gives no object such a member, and a base class in another file does (of `self`), or some
class of another file does (of anything else).
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tools.unique_names import repeated

ROOT = Path(__file__).parents[1]
FOLDERS = ("fanout", "apps")
TOP = 5
_OWN = {"self", "cls"}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Structure(NamedTuple):
    """What was found; of each kind of figure the largest ones."""

    lines: int
    repeated: list[tuple[str, list[str]]]
    """All class names that stand in several modules, and in which."""
    private: list[tuple[str, int, int]]
    """Who uses private members of another file's class: the class (or the file), how many of them, and how often."""
    attributes: list[tuple[str, int]]
    methods: list[tuple[str, int]]

    def as_dict(self) -> dict[str, Any]:
        """Return it for machines."""
        return {**self._asdict(), "repeated": dict(self.repeated)}


class ClassSource:
    """A class, as it is written."""

    def __init__(self, module: ModuleSource, node: ast.ClassDef) -> None:
        self.module, self.name = module, node.name
        self.bases = [ast.unparse(base) for base in node.bases]
        self.methods = [each.name for each in node.body if isinstance(each, _Function)]
        self.on_class = set(_class_names(node))
        self.on_self = {each.attr for each in _attributes(node) if _is_stored(each) and _is_own(each)}
        self.private = [each for each in _attributes(node) if _is_private(each.attr)]
        self.attributes = self.on_self | _slots(node) | _fields(node)

    @property
    def members(self) -> set[str]:
        """What its objects have by this class alone."""
        return self.on_class | self.on_self


class ModuleSource:
    """A module, as it is written."""

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        self.path = str(path.relative_to(ROOT))
        self.lines = text.count("\n")
        self.imports = {
            alias.asname or alias.name: (each.module or "", alias.name)
            for each in ast.walk(tree)
            if isinstance(each, ast.ImportFrom)
            for alias in each.names
        }
        self.classes = [ClassSource(self, each) for each in ast.walk(tree) if isinstance(each, ast.ClassDef)]
        self.private = [each for each in _attributes(tree) if _is_private(each.attr)]
        # Of objects that are no `self` as well: `__new__` and what makes an object in another way give it members, too.
        self.members = {each.attr for each in self.private if _is_stored(each)}.union(
            *(each.members for each in self.classes)
        )


def measure() -> Structure:
    """Read all sources."""
    modules = [ModuleSource(path) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    classes = [each for module in modules for each in module.classes]
    private = [(name, len(found), found.total()) for name, found in _reached(modules)]
    return Structure(
        sum(module.lines for module in modules),
        list(repeated([str(ROOT / folder) for folder in FOLDERS]).items()),
        sorted(private, key=lambda row: (-row[1], row[0]))[:TOP],
        _largest({f"{each.name} ({each.module.path})": len(each.attributes) for each in classes}),
        _largest({f"{each.name} ({each.module.path})": len(each.methods) for each in classes}),
    )


def _largest(sizes: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:TOP]


def _reached(modules: list[ModuleSource]) -> Iterator[tuple[str, Counter[str]]]:
    """Yield who reaches private members of another file's class, and which of them how often."""
    by_name = {
        module.path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): module for module in modules
    }
    owners = defaultdict(set)
    for module in modules:
        for name in module.members:
            owners[name].add(module.path)
    for module in modules:
        in_classes: set[int] = set()
        for each in module.classes:
            inherited: set[str] = set().union(*(base.members for base in _bases(each, by_name)))
            found: Counter[str] = Counter()
            for access in each.private:
                in_classes.add(id(access))
                if access.attr in module.members:
                    continue
                if access.attr in inherited if _is_own(access) else owners[access.attr]:
                    found[access.attr] += 1
            if found:
                yield f"{each.name} ({module.path})", found
        rest = Counter(
            access.attr
            for access in module.private
            if id(access) not in in_classes and access.attr not in module.members and owners[access.attr]
        )
        if rest:
            yield module.path, rest


def _bases(of: ClassSource, modules: dict[str, ModuleSource]) -> Iterator[ClassSource]:
    """Yield the base classes that are in other files, and theirs."""
    for written in of.bases:
        first, _, rest = written.partition("[")[0].partition(".")
        module: ModuleSource | None = of.module
        name = rest or first
        if first in of.module.imports:
            package, imported = of.module.imports[first]
            module = modules.get(f"{package}.{imported}" if rest else package)
            name = rest or imported
        for base in [] if module is None else module.classes:
            if base.name == name and base is not of:
                if base.module is not of.module:
                    yield base
                yield from _bases(base, modules)


def _attributes(node: ast.AST) -> Iterator[ast.Attribute]:
    return (each for each in ast.walk(node) if isinstance(each, ast.Attribute))


_OF_A_TUPLE = frozenset(("_asdict", "_fields", "_make", "_replace"))
"""Public all the same (collections.namedtuple)."""


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in _OF_A_TUPLE


def _is_stored(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store)


def _is_own(node: ast.Attribute) -> bool:
    """Whether it is an attribute of the object itself, or of what its base classes make of it."""
    value = node.value
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id == "super"
    return isinstance(value, ast.Name) and value.id in _OWN


def _fields(node: ast.ClassDef) -> set[str]:
    """Return the fields of a dataclass or a named tuple."""
    kinds = [ast.unparse(each) for each in (*node.decorator_list, *node.bases)]
    if "NamedTuple" not in kinds and not any("dataclass" in kind for kind in kinds):
        return set()
    annotated = (each.target for each in node.body if isinstance(each, ast.AnnAssign))
    return {target.id for target in annotated if isinstance(target, ast.Name)}


def _class_names(node: ast.ClassDef) -> Iterator[str]:
    """Yield what the body of a class names: methods, values, annotations, slots."""
    for each in node.body:
        if isinstance(each, _Function):
            yield each.name
        elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            yield each.target.id
        elif isinstance(each, ast.Assign):
            yield from (target.id for target in each.targets if isinstance(target, ast.Name))
    yield from _slots(node)


def _slots(node: ast.ClassDef) -> set[str]:
    for each in node.body:
        if isinstance(each, ast.Assign) and any(ast.unparse(target) == "__slots__" for target in each.targets):
            found = ast.literal_eval(each.value)
            return {found} if isinstance(found, str) else set(found)
    return set()
