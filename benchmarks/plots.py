"""The plots, as SVG: logarithmic both ways, for the contenders are orders of magnitude apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.contenders import NAMES
from benchmarks.measure import Cost
from benchmarks.results import FleetCosts, Results, of_any_runs, of_loop_runs

# Colours that people with any colour vision can tell apart (Okabe and Ito); baselines dashed.
_STYLES = {
    "stock-3.1.6": ("#D55E00", "-"),
    "stock-3.3.2": ("#E69F00", "-"),
    "dagbump": ("#56B4E9", "-"),
    "dagbump-index": ("#0072B2", "-"),
    "select-1": ("#000000", "--"),
    "update": ("#009E73", "--"),
    "update-index": ("#000000", "--"),
}
_SIZES = {"tis": "TIs per run, 20 runs", "runs": "runs, 500 TIs each"}


def write(results: Results, directory: Path) -> None:
    """Write the plots."""
    steady, version_change = of_loop_runs(results.steady), of_loop_runs(results.version_change)
    # Text stays text, and the same figures make the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dagbump", "font.size": 10}):
        figures = {
            "steady": _draw(steady, "tis", _ms, "Nothing changed", "ms per loop"),
            "version-change": _draw(version_change, "tis", _ms, "Version change", "ms per loop"),
            "memory": _draw(steady, "tis", _kept, "Nothing changed", "kB of Python memory kept"),
            "runs": _draw(of_any_runs(results.steady), "runs", _ms, "Nothing changed", "ms per loop"),
        }
        for name, figure in figures.items():
            figure.savefig(directory / f"benchmark-{name}.svg", metadata={"Date": None})


def _ms(cost: Cost) -> float | None:
    return cost.ms.median


def _kept(cost: Cost) -> float | None:
    return cost.memory.kept / 1000 if cost.memory else None


def _draw(
    fleets: Sequence[FleetCosts], size: str, height: Callable[[Cost], float | None], title: str, unit: str
) -> Figure:
    """Draw a line for each contender."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, (colour, line) in _STYLES.items():
        heights = {getattr(fleet, size): height(fleet.contenders[name]) for fleet in fleets if name in fleet.contenders}
        points = [point for point in heights.items() if point[1] is not None]
        if points:
            label = NAMES[name].strip("`")
            axes.plot(*zip(*points, strict=True), label=label, color=colour, linestyle=line, marker="o", markersize=4)
    axes.set(xscale="log", yscale="log", title=title, xlabel=_SIZES[size], ylabel=unit)
    axes.set_xticks([getattr(fleet, size) for fleet in fleets])
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure
