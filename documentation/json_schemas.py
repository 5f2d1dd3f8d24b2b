"""What each command prints with `--json`, as a JSON Schema.

The schemas are made from the dataclasses that the commands print. `.venv/bin/python -m documentation.json_schemas`
writes them into docs/json-schemas.json. tests/package/test_json.py compares that file with the code, and with what the
commands really print.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dagbump import results
from dagbump.command_line import repair, run
from pydantic import TypeAdapter

FILE = Path(__file__).resolve().parent.parent / "docs" / "json-schemas.json"

ANSWERS: dict[str, Any] = {
    "check": list[results.CheckItem],
    "preview": list[results.RunPreview],
    "bump": list[results.RunBump],
    "repair": repair.Answer,
    "run": run.Line,
    "holders": list[results.Holder],
    "versions": list[results.DagVersions],
    "history": list[results.HistoryEntry],
}
# These print an object per line, one after the other; the schema is that of a line.
LINES = {"run"}


def schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of each command's answer."""
    return {name: TypeAdapter(answer).json_schema(mode="serialization") for name, answer in ANSWERS.items()}


def text() -> str:
    """Return what stands in the file."""
    return json.dumps(schemas(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
