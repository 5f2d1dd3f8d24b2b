"""The plots, as SVG: logarithmic both ways, for the sides are orders of magnitude apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.measure import Cost
from benchmarks.plan import LOOP_RUNS, Shape
from benchmarks.results import Results

# Colours that people with any colour vision can tell apart (Okabe and Ito); floors dashed.
_STYLES = {
    "stock-3.1.6": ("Airflow 3.1.6", "#D55E00", "-"),
    "stock-3.3.2": ("Airflow 3.3.2", "#E69F00", "-"),
    "dagbump": ("dagbump", "#56B4E9", "-"),
    "dagbump-index": ("dagbump + index", "#0072B2", "-"),
    "select-1": ("SELECT 1", "#000000", "--"),
    "update": ("bare UPDATE", "#009E73", "--"),
    "update-index": ("bare UPDATE + index", "#000000", "--"),
}
_FEW_RUNS_TIS = 500

Costs = Mapping[Shape, Mapping[str, Cost]]


def write(results: Results, directory: Path) -> None:
    """Write the plots."""
    # Text stays text, and the same figures make the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dagbump", "font.size": 10}):
        by_size = "TIs per run, 20 runs"
        by_number = f"runs, {_FEW_RUNS_TIS} TIs each"
        figures = {
            "steady": _draw(results.steady, _tis, _ms, ("Nothing changed", by_size, "ms per loop")),
            "landing": _draw(results.landing, _tis, _ms, ("A version lands", by_size, "ms per loop")),
            "memory": _draw(results.steady, _tis, _kept, ("Nothing changed", by_size, "kB of Python memory kept")),
            "runs": _draw(results.steady, _runs, _ms, ("Nothing changed", by_number, "ms per loop")),
        }
        for name, figure in figures.items():
            figure.savefig(directory / f"benchmark-{name}.svg", metadata={"Date": None})


def _tis(shape: Shape) -> int | None:
    return shape.tis if shape.runs == LOOP_RUNS else None


def _runs(shape: Shape) -> int | None:
    return shape.runs if shape.tis == _FEW_RUNS_TIS else None


def _ms(cost: Cost) -> float | None:
    return cost.ms.median


def _kept(cost: Cost) -> float | None:
    return cost.memory.kept / 1000 if cost.memory else None


def _draw(
    costs: Costs,
    place: Callable[[Shape], int | None],
    height: Callable[[Cost], float | None],
    labels: tuple[str, str, str],
) -> Figure:
    """Draw a line for each side; fleets that have no place are left out. The labels: title, x, y."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    shapes = [shape for shape in sorted(costs) if place(shape) is not None]
    for name, (label, colour, line) in _STYLES.items():
        points = [
            (place(shape), value)
            for shape in shapes
            if name in costs[shape] and (value := height(costs[shape][name])) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=colour, linestyle=line, marker="o", markersize=4)
    title, x_label, y_label = labels
    axes.set(xscale="log", yscale="log", title=title, xlabel=x_label, ylabel=y_label)
    axes.set_xticks([place(shape) or 0 for shape in shapes])
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure
