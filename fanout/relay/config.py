"""One YAML file for a whole relay: read, held against its schema, and every error is a sentence with file and line."""

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
from fanout.relay.core.ingress import Ingress, misfit

SIZE_MAX = 1 << 20
"""Bytes of a file: more than the most ingresses with all that can be said of them."""
_DEPTH_MAX = 8
_SHOWN_MAX = 60
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?", re.ASCII)
_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}

Path = tuple[str | int, ...]


class Config(NamedTuple):
    """What a file says."""

    ingresses: tuple[Ingress, ...]
    loop_guard: bool


def load(path: str) -> Config:
    """Return what the file says; raise `InvalidIngress`, whose sentence names the file and the line."""
    document = _Document(path, _read(path))
    said = document.said
    try:
        _validator()(said)
    except fastjsonschema.JsonSchemaValueException as error:
        raise document.wrong(*_explained(error)) from None
    defaults = {key: said[key] for key in ("service", "to_port", "allow_source", "limit") if key in said}
    ingresses = []
    for place, entry in enumerate(said["ingresses"]):
        at = ("ingresses", place, "listen")
        settings = {**defaults, **entry}
        if "service" not in settings:
            raise document.wrong(at, f"ingress {_shown(entry['listen'])} goes nowhere: add service, here or for all")
        try:
            ingresses.append(Ingress.parse(settings.pop("listen"), **settings))
        except InvalidIngress as error:
            raise document.wrong(at, str(error)) from None
    if (unfit := misfit(ingresses)) is not None:
        raise document.wrong(("ingresses", unfit[0], "listen"), unfit[1])
    return Config(tuple(ingresses), said.get("loop_guard", False))


def schema_text() -> str:
    """Return the JSON Schema of the file."""
    return resources.files("fanout.relay").joinpath("schema.json").read_text(encoding="utf-8")


@functools.cache
def _validator() -> Callable[[object], object]:
    return fastjsonschema.compile(json.loads(schema_text()), use_default=False, use_formats=False)


def _explained(error: fastjsonschema.JsonSchemaValueException) -> tuple[Path, str]:
    """Return where a file does not keep to the schema, and what is to be there: the schema's titles say it."""
    at: Path = tuple(int(step) if step.isdigit() else step for step in error.path[1:])
    name = "the file" if not at else f"an entry of {at[-2]}" if isinstance(at[-1], int) else at[-1]
    known: dict[str, Any] = error.definition.get("properties", {})
    if error.rule in ("additionalProperties", "required"):
        unknown = next((key for key in error.value if key not in known), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, known, 1)
            hint = f"do you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            return (*at, unknown), f"{_shown(unknown)} is no key of {name}: {hint}"
        missing = next(key for key in error.rule_definition if key not in error.value)
        return at, f"{name} lacks {missing}: {known[missing]['title']}"
    return at, f"{name} is to be {error.definition['title']}, not {_shown(error.value)}"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and len(value) > _SHOWN_MAX:
        return repr(f"{value[:_SHOWN_MAX]}...")
    return repr(value)


def _read(path: str) -> str:
    shown = _printable(path)
    try:
        # Not blocking: a FIFO would wait for its writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidIngress(f"{shown} is no regular file")
            raw = file.read(SIZE_MAX + 1)
    except InvalidIngress:
        raise
    except OSError as error:
        raise InvalidIngress(f"{shown} cannot be read: {error.strerror}") from None
    except ValueError:
        raise InvalidIngress(f"{shown} cannot be read: no path has a null character") from None
    if len(raw) > SIZE_MAX:
        raise InvalidIngress(f"{shown} is larger than {SIZE_MAX:,} bytes: it is no relay's file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidIngress(f"{shown}, line {line}: this is not UTF-8") from None


def _printable(path: str) -> str:
    return path if path.isprintable() and path else repr(path)


class _Document:
    """What a YAML file says, as plain values, and the line of each.

    It is read event by event: what is refused (anchors and aliases, which can mean billions of values; tags; deep
    nesting; a key given twice) is refused where it stands, before anything is built of it. What is not quoted is
    what YAML 1.2 takes it for: `no` and `12:30` are texts, `010` is ten.
    """

    def __init__(self, path: str, text: str) -> None:
        self._path = _printable(path)
        self._lines: dict[Path, int] = {(): 1}
        self._line = 1
        self.said = self._parse(text)
        if self.said is None:
            raise InvalidIngress(f"{self._path} is empty: a relay's file has ingresses")

    def wrong(self, at: Path, what: str) -> InvalidIngress:
        """Return the error of what stands at `at`."""
        return self._wrong_in(self._lines[at], what)

    def _wrong_in(self, line: int, what: str) -> InvalidIngress:
        return InvalidIngress(f"{self._path}, line {line}: {what}")

    def _parse(self, text: str) -> Any:
        unprintable = Reader.NON_PRINTABLE.search(text)
        if unprintable is not None:
            line = text.count("\n", 0, unprintable.start()) + 1
            raise self._wrong_in(line, f"YAML has no character {unprintable.group()!r}")
        try:
            return self._only_document(yaml.parse(text, Loader=yaml.SafeLoader))
        except InvalidIngress:
            raise
        except yaml.MarkedYAMLError as error:
            # What was begun and not ended is found at the end of the file; people look for where it began.
            mark = (isinstance(error, ScannerError) and error.context_mark) or error.problem_mark
            problem = " ".join(f"{error.problem or error.context}".split())
            raise self._wrong_in(mark.line + 1 if mark else self._line, f"this is not YAML: {problem}") from None
        except (yaml.YAMLError, ValueError, OverflowError):
            # PyYAML makes numbers of escapes and versions without a look at their size.
            raise self._wrong_in(self._line, "from here on it is not YAML") from None

    def _only_document(self, events: Iterator[Any]) -> Any:
        said, documents = None, 0
        for event in events:
            if isinstance(event, DocumentStartEvent) and event.start_mark:
                documents += 1
                if documents > 1:
                    raise self._wrong_in(event.start_mark.line + 1, "here a second document begins: there is to be one")
            elif isinstance(event, NodeEvent):
                said = self._value(event, events, ())
        return said

    def _value(self, event: Any, events: Iterator[Any], at: Path) -> Any:
        line = self._looked_at(event)
        self._lines.setdefault(at, line)
        if len(at) > _DEPTH_MAX:
            raise self._wrong_in(line, f"this is nested deeper than {_DEPTH_MAX} levels")
        if isinstance(event, ScalarEvent):
            return self._scalar(event)
        if isinstance(event, SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(inner := next(events), SequenceEndEvent):
                items.append(self._value(inner, events, (*at, len(items))))
            return items
        entries: dict[str, Any] = {}
        while not isinstance(inner := next(events), MappingEndEvent):
            line = self._looked_at(inner)
            if not isinstance(inner, ScalarEvent):
                raise self._wrong_in(line, "a key is a text, not a list or a mapping")
            key = inner.value
            if key in entries:
                first = self._lines[*at, key]
                raise self._wrong_in(line, f"{_shown(key)} is there for the second time: the first is in line {first}")
            self._lines[*at, key] = line
            entries[key] = self._value(next(events), events, (*at, key))
        return entries

    def _looked_at(self, event: Any) -> int:
        """Return the line of a node; raise `InvalidIngress` where it is of no kind that a relay's file has."""
        line: int = event.start_mark.line + 1
        self._line = line
        if event.anchor is not None:  # an alias has one, too
            raise self._wrong_in(line, "there are no anchors (&) and aliases (*) here: write it out, or quote it")
        if event.tag not in (None, "!"):
            raise self._wrong_in(line, "there are no tags (!) here: write it without, or quote it")
        if isinstance(event, ScalarEvent) and any("\ud800" <= character <= "\udfff" for character in event.value):
            raise self._wrong_in(line, f"{_shown(event.value)} has half a character")
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
