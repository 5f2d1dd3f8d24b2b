"""Postpones imports to the first use, so that ``--help`` does not wait for SQLAlchemy.

Help and completion import the modules of all commands. SQLAlchemy, Alembic and rich take a second to import, and only
the work of a command needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Postponed:
    """Stands for a module; type checkers see the module itself."""

    def __init__(self, name: str) -> None:
        """Remember the name."""
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Import the module, and return its attribute."""
        return getattr(import_module(self._name), attribute)
