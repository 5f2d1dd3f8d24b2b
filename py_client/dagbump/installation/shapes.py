"""The shapes of Airflow's tables, the oldest first, and how to tell them apart.

SQL that differs for a shape is in a folder named by the key of the shape. A file that the folder lacks is taken from
the shape before.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A shape of Airflow's tables.

    Attributes:
        key: the name of the shape. It is recorded in dagbump.installation and never changes.
        label: the Airflow releases that have this shape, for people. It may change with each release.
        probe: a table and a column that exist in this shape and in all later ones; None for the first shape.
    """

    key: str
    label: str
    probe: tuple[str, str] | None


SHAPES = (
    # Past tries of a task instance are in a separate table, task_instance_history.
    Shape("tries_apart", "3.0 to 3.3", None),
    # Past tries are rows of task_instance itself.
    Shape("tries_inside", "3.4", ("task_instance", "working_set")),
)
FIRST, NEWEST = SHAPES[0], SHAPES[-1]


def up_to(shape: Shape) -> tuple[Shape, ...]:
    """Return a shape and the older ones, the newest first."""
    return SHAPES[SHAPES.index(shape) :: -1]


def of_key(key: str) -> Shape:
    """Return the shape with a key.

    Raises:
        ValueError: there is no such shape; the message lists the known ones.
    """
    for shape in SHAPES:
        if shape.key == key:
            return shape
    raise ValueError(f"{key!r} is not one of {described()}")


def label_of(key: str) -> str:
    """Return the Airflow releases of a recorded key; for a key that only a later dagbump knows, return the key."""
    return next((shape.label for shape in SHAPES if shape.key == key), key)


def described() -> str:
    """Return the list of keys, each with its releases."""
    return ", ".join(f"{shape.key} (Airflow {shape.label})" for shape in SHAPES)
