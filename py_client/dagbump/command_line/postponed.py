"""Modules that are imported when something of them is used, so that a word of help does not wait for SQLAlchemy.

A command's module has to be imported for its help and for completion; SQLAlchemy, Alembic and rich, which take a
second, only for its work.
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
        """Import the module, and look there."""
        return getattr(import_module(self._name), attribute)
