"""The plots, as SVG. Both axes are logarithmic, because the contenders differ by orders of magnitude."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.figures import Cost, Costs, Results, name_of, names
from benchmarks.plan import LOOP_RUNS, FleetSize

# Colours that everybody can tell apart (Okabe and Ito), in the order of the contenders.
_COLOURS = ("#D55E00", "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#000000")
_BASELINES = ("select-1", "update", "update-index")  # dashed
# For each number that a plot varies: the number that stays the same, its value, and the title of the axis.
_SIZES = {"tis": ("runs", LOOP_RUNS, f"TIs per run, {LOOP_RUNS} runs"), "runs": ("tis", 500, "runs, 500 TIs each")}


def write(results: Results, directory: Path) -> None:
    steady, version_change = results.costs["steady"], results.costs["version change"]
    # Text stays text, and the same figures give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dagbump", "font.size": 10}):
        figures = {
            "steady": _draw(steady, "tis", _ms, "Nothing changed", "ms per loop"),
            "version-change": _draw(version_change, "tis", _ms, "Version change", "ms per loop"),
            "memory": _draw(steady, "tis", _kept, "Nothing changed", "kB of Python memory kept"),
            "runs": _draw(steady, "runs", _ms, "Nothing changed", "ms per loop"),
        }
        for name, figure in figures.items():
            figure.savefig(directory / f"benchmark-{name}.svg", metadata={"Date": None})


def _ms(cost: Cost) -> float | None:
    return cost.ms.median


def _kept(cost: Cost) -> float | None:
    return cost.memory.kept / 1000 if cost.memory else None


def _draw(costs: Costs, size: str, height: Callable[[Cost], float | None], title: str, unit: str) -> Figure:
    """Draw a line for each contender."""
    other, same, axis_label = _SIZES[size]
    sizes = {FleetSize.of(fleet): contenders for fleet, contenders in costs.items()}
    fleets = {getattr(of, size): contenders for of, contenders in sizes.items() if getattr(of, other) == same}
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, colour in zip(names(fleets.values()), _COLOURS, strict=False):
        heights = {number: height(contenders[name]) for number, contenders in fleets.items() if name in contenders}
        points = [point for point in heights.items() if point[1] is not None]
        if points:
            line = "--o" if name in _BASELINES else "-o"
            axes.plot(*zip(*points, strict=True), line, label=name_of(name).strip("`"), color=colour, markersize=4)
    axes.set(xscale="log", yscale="log", title=title, xlabel=axis_label, ylabel=unit)
    axes.set_xticks(list(fleets))
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure
