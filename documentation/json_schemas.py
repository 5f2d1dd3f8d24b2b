"""What each command prints with `--json`, as a JSON Schema.

The schemas are made from the dataclasses that the commands print. `.venv/bin/python -m documentation.json_schemas`
writes them into docs/json-schemas.json. tests/package/test_json.py compares that file with the code, and with what the
commands really print.
"""

from __future__ import annotations

import json
import re
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
_ATTRIBUTE = re.compile(r"^    (\w+): (.*?)(?=^    \w|\Z)", re.MULTILINE | re.DOTALL)

# These print an object per line, one after the other; the schema is that of a line.
LINES = {"run"}


def schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of each command's answer."""
    made = {name: TypeAdapter(answer).json_schema(mode="serialization") for name, answer in ANSWERS.items()}
    for schema in made.values():
        for row in [schema, *schema.get("$defs", {}).values()]:
            _describe(row)
    return made


def _describe(schema: dict[str, Any]) -> None:
    """Give each key the meaning that the docstring of the dataclass has for it."""
    summary, _, attributes = schema.get("description", "").partition("\n\nAttributes:\n")
    for name, meaning in _ATTRIBUTE.findall(attributes):
        key = schema["properties"][name]
        del key["title"]
        key["description"] = " ".join(meaning.split()).replace("``", "`")
    if summary:
        schema["description"] = summary.replace("``", "`")


def text() -> str:
    """Return what stands in the file."""
    return json.dumps(schemas(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
