"""The picture of `fanout bench --plot`: latency above, loss below, a column a pod, in one SVG without scripts."""

from __future__ import annotations

import re
import sys

import pygal  # type: ignore[import-untyped]
from pygal.graph.graph import Graph  # type: ignore[import-untyped]
from pygal.style import Style  # type: ignore[import-untyped]

from fanout.cli.output import plural
from fanout.measure.result import PERCENTILES, BenchResult, PodResult, PodStatus

# From then on, pygal looks for plug-ins at every import, in a way that Python 3.11 warns of: we have no plug-ins.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]

_WIDTH = 1200
_UPPER = 520
_LOWER = 340
_BARS_MAX = 12
"""Pods up to which each is named and has bars of its own; more are curves, in order of their p99."""
_LABELS_MAX = 12
_TITLE_MAX = 80
_STYLE = Style(
    background="#ffffff",
    plot_background="#ffffff",
    foreground="#333333",
    foreground_strong="#111111",
    foreground_subtle="#888888",
    colors=("#9ecae1", "#4292c6", "#08519c", "#f16913"),
    font_family="sans-serif",
    guide_stroke_color="#dddddd",
    major_guide_stroke_color="#cccccc",
    title_font_size=17,
    label_font_size=13,
    major_label_font_size=13,
    legend_font_size=14,
    opacity=".9",
    stroke_width=2,
)


def draw(result: BenchResult, pods_of: str) -> bytes:
    """Return the picture of `pods_of` (`2 pods of NAME`) as SVG; a pod without figures has its place and no column."""
    pods = list(result.pods)
    crowded = len(pods) > _BARS_MAX
    if crowded:
        pods.sort(key=lambda pod: (pod.round_trip(0.99) is None, pod.round_trip(0.99) or 0.0))
    whom = pods_of if len(pods_of) <= _TITLE_MAX else f"{pods_of[:_TITLE_MAX]}..."
    upper = _latency(pods, f"Round trip to {whom} (ms)", crowded=crowded)
    lower = _loss(pods, _what_was_sent(result), crowded=crowded)
    return _one_above_the_other(upper, lower)


def _what_was_sent(result: BenchResult) -> str:
    without = len(result.pods) - len(result.having(PodStatus.MEASURED))
    what = f"Loss (%) of {result.messages:,} messages of {result.size:,} bytes, {result.rate:,.0f}/s to each pod"
    return f"{what}; {plural(without, 'pod')} without figures" if without else what


def _latency(pods: list[PodResult], title: str, *, crowded: bool) -> Graph:
    if crowded:
        chart: Graph = pygal.Line(dots_size=1, **_settings(title, _UPPER, pods, crowded=True))
    else:
        chart = pygal.Bar(**_settings(title, _UPPER, pods, crowded=False))
    for name, fraction in PERCENTILES.items():
        seconds = [pod.round_trip(fraction) if pod.status is PodStatus.MEASURED else None for pod in pods]
        chart.add(name, [None if value is None else value * 1000 for value in seconds])
    return chart


def _loss(pods: list[PodResult], title: str, *, crowded: bool) -> Graph:
    settings = _settings(title, _LOWER, pods, crowded=crowded)
    # Without loss the axis would have no height.
    settings |= {"range": (0, max([1.0, *(pod.loss or 0.0 for pod in pods)])), "show_legend": False, "x_title": None}
    chart: Graph = pygal.Bar(**settings)
    chart.add("loss", [{"value": pod.loss, "color": "#cb181d"} for pod in pods])
    return chart


def _label(pod: PodResult) -> str:
    return str(pod.endpoint) if pod.status is PodStatus.MEASURED else f"{pod.endpoint} ({pod.status})"


def _settings(title: str, height: int, pods: list[PodResult], *, crowded: bool) -> dict[str, object]:
    step = -(-len(pods) // _LABELS_MAX)
    return {
        "title": title,
        "width": _WIDTH,
        "height": height,
        "style": _STYLE,
        "js": [],
        "disable_xml_declaration": True,
        "explicit_size": True,
        "print_values": False,
        "legend_at_bottom": True,
        "include_x_axis": True,
        "x_labels": [_label(pod) for pod in pods],
        "x_labels_major_every": step,
        "show_minor_x_labels": False,
        "truncate_label": -1,
        "x_label_rotation": 0 if len(pods) <= 6 else 20,
        "x_title": "pods, from the least p99 to the greatest" if crowded else None,
    }


def _one_above_the_other(upper: Graph, lower: Graph) -> bytes:
    """Return both as one document: an SVG may hold others (SVG 1.1, 5.1.1)."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_UPPER + _LOWER}" '
        f'width="{_WIDTH}" height="{_UPPER + _LOWER}">',
        '<g transform="translate(0,0)">',
        svg(upper),
        f'</g><g transform="translate(0,{_UPPER})">',
        svg(lower),
        "</g></svg>\n",
    ]
    return "".join(parts).encode()


def svg(chart: Graph) -> str:
    """Return the chart as SVG."""
    # pygal puts its settings in, as a script: a picture needs none.
    return re.sub(r"<script.*?</script>", "", chart.render(is_unicode=True), flags=re.DOTALL)
