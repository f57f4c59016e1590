"""pygal, as pictures need it: nothing of it stays behind, and no script is in what it draws."""

from __future__ import annotations

import re
import sys

import pygal  # type: ignore[import-untyped]
from pygal.graph.graph import Graph  # type: ignore[import-untyped]
from pygal.style import Style  # type: ignore[import-untyped]

__all__ = ["Graph", "Style", "pygal", "svg"]

# pygal looks for its plug-ins at every import that follows, in a way that Python 3.11 warns of: there are none here.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]


def svg(chart: Graph) -> str:
    """Return the chart as SVG."""
    # pygal puts its settings in, as a script: a picture needs none.
    return re.sub(r"<script.*?</script>", "", chart.render(is_unicode=True), flags=re.DOTALL)
