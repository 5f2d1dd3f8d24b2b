"""The plots, as SVG. Both axes are logarithmic, because the contenders differ by orders of magnitude."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.figures import Cost, FleetCosts, Loops, name_of, names
from benchmarks.plan import LOOP_RUNS

# Colours that everybody can tell apart (Okabe and Ito), in the order of the contenders.
_COLOURS = ("#D55E00", "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#000000")
_BASELINES = ("select-1", "update", "update-index")  # dashed
_SIZES = {"tis": f"TIs per run, {LOOP_RUNS} runs", "runs": "runs, 500 TIs each"}


def write(results: Loops, directory: Path) -> None:
    steady, version_change = (
        [fleet for fleet in costs if fleet.runs == LOOP_RUNS] for costs in (results.steady, results.version_change)
    )
    of_500_tis = [fleet for fleet in results.steady if fleet.tis == 500]  # noqa: PLR2004  (as _SIZES says)
    # Text stays text, and the same figures give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dagbump", "font.size": 10}):
        figures = {
            "steady": _draw(steady, "tis", _ms, "Nothing changed", "ms per loop"),
            "version-change": _draw(version_change, "tis", _ms, "Version change", "ms per loop"),
            "memory": _draw(steady, "tis", _kept, "Nothing changed", "kB of Python memory kept"),
            "runs": _draw(of_500_tis, "runs", _ms, "Nothing changed", "ms per loop"),
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
    for name, colour in zip(names(fleets), _COLOURS, strict=False):
        heights = {getattr(fleet, size): height(fleet.contenders[name]) for fleet in fleets if name in fleet.contenders}
        points = [point for point in heights.items() if point[1] is not None]
        if points:
            line = "--o" if name in _BASELINES else "-o"
            axes.plot(*zip(*points, strict=True), line, label=name_of(name).strip("`"), color=colour, markersize=4)
    axes.set(xscale="log", yscale="log", title=title, xlabel=_SIZES[size], ylabel=unit)
    axes.set_xticks([getattr(fleet, size) for fleet in fleets])
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure
