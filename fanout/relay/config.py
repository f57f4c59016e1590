"""One YAML file for a whole relay: read and checked against its schema; every error names the file and the line."""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any, NamedTuple

import fastjsonschema
import yaml
from yaml.events import (
    DocumentStartEvent,
    MappingEndEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.reader import Reader
from yaml.scanner import ScannerError

from fanout.errors import InvalidIngress
from fanout.options import shown
from fanout.relay.core.ingress import Ingress, first_conflict

SIZE_MAX = 1 << 20
"""Bytes of a file: more than 1,024 ingresses with every key take."""
_DEPTH_MAX = 8
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?", re.ASCII)
_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}

Path = tuple[str | int, ...]


class Config(NamedTuple):
    """What a file says."""

    ingresses: tuple[Ingress, ...]
    loop_guard: bool


def load(path: str) -> Config:
    """Return what the file says; raise `InvalidIngress`, which names the file and the line."""
    document = _Document(path, _read(path))
    content = document.content
    try:
        _validator()(content)
    except fastjsonschema.JsonSchemaValueException as error:
        raise document.error_at(*_explain(error)) from None
    defaults = {key: content[key] for key in ("service", "to_port", "allow_source", "limit") if key in content}
    ingresses = []
    for place, entry in enumerate(content["ingresses"]):
        at = ("ingresses", place, "listen")
        settings = {**defaults, **entry}
        if "service" not in settings:
            raise document.error_at(
                at, f"ingress {_shown(entry['listen'])} must have a service, its own or one for all"
            )
        try:
            ingresses.append(Ingress.parse(settings.pop("listen"), **settings))
        except InvalidIngress as error:
            raise document.error_at(at, str(error)) from None
    if (conflict := first_conflict(ingresses)) is not None:
        raise document.error_at(("ingresses", conflict[0], "listen"), conflict[1])
    return Config(tuple(ingresses), content.get("loop_guard", False))


def schema_text() -> str:
    """Return the JSON Schema of the file."""
    return resources.files("fanout.relay").joinpath("schema.json").read_text(encoding="utf-8")


@functools.cache
def _validator() -> Callable[[object], object]:
    return fastjsonschema.compile(json.loads(schema_text()), use_default=False, use_formats=False)


def _explain(error: fastjsonschema.JsonSchemaValueException) -> tuple[Path, str]:
    """Return where a file violates the schema, and what must be there, from the schema's titles."""
    at: Path = tuple(int(step) if step.isdigit() else step for step in error.path[1:])
    name = "the file" if not at else f"an entry of {at[-2]}" if isinstance(at[-1], int) else at[-1]
    known: dict[str, Any] = error.definition.get("properties", {})
    if error.rule in ("additionalProperties", "required"):
        unknown = next((key for key in error.value if key not in known), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
            return (*at, unknown), f"{_shown(unknown)} is not a key of {name}: {hint}"
        missing = next(key for key in error.rule_definition if key not in error.value)
        return at, f"{name} must have {missing}: {known[missing]['title']}"
    return at, f"{name} must be {error.definition['title']}; got {_shown(error.value)}"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return shown(value)


def _read(path: str) -> str:
    name = _printable(path)
    try:
        # Not blocking: a FIFO would wait for its writer.
        with open(path, "rb", opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK)) as file:
            is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            raw = file.read(SIZE_MAX + 1) if is_regular else b""
    except OSError as error:
        raise InvalidIngress(f"cannot read {name}: {error.strerror}") from None
    except ValueError:
        raise InvalidIngress(f"cannot read {name}: a path must not contain a null character") from None
    if not is_regular:
        raise InvalidIngress(f"{name} must be a regular file")
    if len(raw) > SIZE_MAX:
        raise InvalidIngress(f"{name} must be at most {SIZE_MAX:,} bytes long")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidIngress(f"{name}, line {line}: not valid UTF-8") from None


def _printable(path: str) -> str:
    return path if path.isprintable() and path else repr(path)


class _Document:
    """What a YAML file says, as plain values, and the line of each.

    It is read event by event, so that anchors and aliases (which can expand to billions of values), tags, deep nesting
    and duplicate keys are refused before anything is built of them. Unquoted scalars follow YAML 1.2: `no` and `12:30`
    are strings, `010` is ten.
    """

    def __init__(self, path: str, text: str) -> None:
        self._path = _printable(path)
        self._lines: dict[Path, int] = {(): 1}
        self._line = 1
        self.content = self._parse(text)
        if self.content is None:
            raise InvalidIngress(f"{self._path} is empty: it must have ingresses")

    def error_at(self, at: Path, what: str) -> InvalidIngress:
        """Return the error for the value at `at`."""
        return self._error_in(self._lines[at], what)

    def _error_in(self, line: int, what: str) -> InvalidIngress:
        return InvalidIngress(f"{self._path}, line {line}: {what}")

    def _parse(self, text: str) -> Any:
        unprintable = Reader.NON_PRINTABLE.search(text)
        if unprintable is not None:
            line = text.count("\n", 0, unprintable.start()) + 1
            raise self._error_in(line, f"YAML does not allow the character {unprintable.group()!r}")
        try:
            return self._only_document(yaml.parse(text, Loader=yaml.SafeLoader))
        except InvalidIngress:
            raise
        except yaml.MarkedYAMLError as error:
            # PyYAML finds at the end of the file what was never closed; people look for where it began.
            mark = (isinstance(error, ScannerError) and error.context_mark) or error.problem_mark
            problem = " ".join(f"{error.problem or error.context}".split())
            raise self._error_in(mark.line + 1 if mark else self._line, f"not valid YAML: {problem}") from None
        except (yaml.YAMLError, ValueError, OverflowError):
            # PyYAML converts escapes and versions to numbers without a check of their size.
            raise self._error_in(self._line, "not valid YAML from here on") from None

    def _only_document(self, events: Iterator[Any]) -> Any:
        content, documents = None, 0
        for event in events:
            if isinstance(event, DocumentStartEvent) and event.start_mark:
                documents += 1
                if documents > 1:
                    raise self._error_in(event.start_mark.line + 1, "a second document begins here: give only one")
            elif isinstance(event, NodeEvent):
                content = self._value(event, events, ())
        return content

    def _value(self, event: Any, events: Iterator[Any], at: Path) -> Any:
        line = self._checked_line(event)
        self._lines.setdefault(at, line)
        if len(at) > _DEPTH_MAX:
            raise self._error_in(line, f"nesting must be at most {_DEPTH_MAX} levels deep")
        if isinstance(event, ScalarEvent):
            return self._scalar(event)
        if isinstance(event, SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(inner := next(events), SequenceEndEvent):
                items.append(self._value(inner, events, (*at, len(items))))
            return items
        entries: dict[str, Any] = {}
        while not isinstance(inner := next(events), MappingEndEvent):
            line = self._checked_line(inner)
            if not isinstance(inner, ScalarEvent):
                raise self._error_in(line, "a key must be a string, not a list or a mapping")
            key = inner.value
            if key in entries:
                first = self._lines[*at, key]
                raise self._error_in(line, f"duplicate key {_shown(key)}: first given in line {first}")
            self._lines[*at, key] = line
            entries[key] = self._value(next(events), events, (*at, key))
        return entries

    def _checked_line(self, event: Any) -> int:
        """Return the line of a node; raise `InvalidIngress` where it has an anchor, a tag or a surrogate."""
        line: int = event.start_mark.line + 1
        self._line = line
        if event.anchor is not None:  # an alias has one, too
            raise self._error_in(line, "anchors (&) and aliases (*) are not supported: write it out, or quote it")
        if event.tag not in (None, "!"):
            raise self._error_in(line, "tags (!) are not supported: leave it out, or quote it")
        if isinstance(event, ScalarEvent) and any("\ud800" <= character <= "\udfff" for character in event.value):
            raise self._error_in(line, f"{_shown(event.value)} has half of a surrogate pair")
        return line

    @staticmethod
    def _scalar(event: ScalarEvent) -> Any:
        text = event.value
        if not event.implicit[0]:  # quoted
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _NUMBER.fullmatch(text) else text
