"""All that one benchmark has found out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.lifecycle import LifeCycles
from benchmarks.measure import Cost
from benchmarks.plan import Shape


@dataclass(frozen=True)
class Results:
    """What was measured, and where.

    Attributes:
        machine: what it ran on: cores, memory, versions, settings.
        steady: by fleet and side, the loop in which nothing changed.
        landing: the same of the loop in which a new version lands.
        life_cycles: what the index costs the rest.
        life_cycle_shape: the fleet that this was measured beside.
        seconds: how long the benchmark took.
    """

    machine: dict[str, Any]
    steady: dict[Shape, dict[str, Cost]]
    landing: dict[Shape, dict[str, Cost]]
    life_cycles: LifeCycles
    life_cycle_shape: Shape
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "machine": self.machine,
            "seconds": round(self.seconds),
            "steady": _by_fleet(self.steady),
            "landing": _by_fleet(self.landing),
            "life_cycles": asdict(self.life_cycles) | {"fleet": asdict(self.life_cycle_shape)},
        }


def _by_fleet(costs: dict[Shape, dict[str, Cost]]) -> list[dict[str, Any]]:
    return [
        asdict(shape) | {"sides": {name: asdict(cost) for name, cost in sides.items()}}
        for shape, sides in sorted(costs.items())
    ]
