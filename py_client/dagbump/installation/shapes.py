"""The shapes that Airflow's tables have had, the oldest first, and how to tell them apart.

SQL that reads otherwise for a shape stands in a folder with its key. What is not there is taken from the shape before.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A shape of Airflow's tables.

    Attributes:
        key: what the tables are. It is recorded in dagbump.installation, and never changes.
        label: the Airflow releases that have it, for people. It may grow with each release.
        probe: a table, and a column that it has in this shape and in those after it; None: of the first shape.
    """

    key: str
    label: str
    probe: tuple[str, str] | None


SHAPES = (
    # Past tries of a task instance are in a table of their own, task_instance_history.
    Shape("tries_apart", "3.0 to 3.3", None),
    # They are rows of task_instance itself.
    Shape("tries_inside", "3.4", ("task_instance", "working_set")),
)
FIRST, NEWEST = SHAPES[0], SHAPES[-1]


def up_to(shape: Shape) -> tuple[Shape, ...]:
    """Return a shape and those before it, the newest first."""
    return SHAPES[SHAPES.index(shape) :: -1]


def of_key(key: str) -> Shape:
    """Return the shape with a key.

    Raises:
        ValueError: there is none; the message names those that there are.
    """
    for shape in SHAPES:
        if shape.key == key:
            return shape
    raise ValueError(f"{key!r} is none of {described()}")


def label_of(key: str) -> str:
    """Return the Airflow releases that a recorded key stands for; a key of a later dagbump stands for itself."""
    return next((shape.label for shape in SHAPES if shape.key == key), key)


def described() -> str:
    """Return the keys, each with its releases."""
    return ", ".join(f"{shape.key} (Airflow {shape.label})" for shape in SHAPES)
