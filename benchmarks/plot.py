"""The picture that a README shows: copies a second of each contender, as bars with values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pygal  # type: ignore[import-untyped]
from pygal.style import Style  # type: ignore[import-untyped]

from benchmarks.rows import si
from fanout.cli.bench_plot import svg

# Legible on white and on dark pages alike.
_TEXT = "#768390"
_VALUES_BESIDE_BARS = ".text-overlay text.value { text-anchor: start; }"
_OURS = "#2f81f7"
_OTHERS = "#9aa4af"


def bars(path: Path, title: str, rates: Mapping[str, float]) -> None:
    """Save a bar for each contender, the slowest at the bottom."""
    style = Style(
        background="transparent",
        plot_background="transparent",
        foreground=_TEXT,
        foreground_strong=_TEXT,
        foreground_subtle="transparent",
        value_colors=(_TEXT,),
        colors=(_OURS,),
        opacity="1",
        font_family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif",
        title_font_size=18,
        label_font_size=14,
        major_label_font_size=14,
        value_font_size=14,
    )
    chart = pygal.HorizontalBar(
        style=style,
        no_prefix=True,  # no random name: the file changes only where a figure does
        js=[],  # nothing from elsewhere
        css=["file://style.css", "file://graph.css", f"inline:{_VALUES_BESIDE_BARS}"],
        range=(0, max(rates.values()) * 1.12),
        width=960,
        height=120 + 34 * len(rates),
        title=title,
        show_legend=False,
        print_values=True,
        print_values_position="top",
        show_x_guides=False,
        show_y_guides=False,
        show_x_labels=False,
        rounded_bars=3,
        spacing=12,
        margin=20,
        formatter=lambda rate: f"\N{EN SPACE}{si(rate)}/s",
        disable_xml_declaration=True,
    )
    ordered = sorted(rates.items(), key=lambda item: item[1])
    chart.x_labels = [name for name, _ in ordered]
    chart.add("", [{"value": rate, "color": _OURS if name.startswith("fanout") else _OTHERS} for name, rate in ordered])
    path.write_text(f"{svg(chart)}\n")
