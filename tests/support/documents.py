"""What the documentation says."""

from __future__ import annotations

from collections.abc import Iterable

from tests.support.tree import ROOT

_TEXT = "\n".join(path.read_text() for path in sorted(ROOT.glob("docs/*.md")))


def undocumented(words: Iterable[str]) -> list[str]:
    """Return those of which no document has the word as it is written in logs and metrics."""
    return [word for word in words if f"`{word}`" not in _TEXT]
