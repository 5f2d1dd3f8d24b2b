"""Puts together what the tests have run, and names what they have not. `make coverage` runs it."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from dagbump.installation import sql_files

from support import proof
from support.plpgsql_coverage import DIRECTORY

TITLE = "Coverage"
PLUGIN = "airflow_plugin"


def of_plpgsql() -> dict[str, Any]:
    """Count the statements of the functions as they are installed."""
    installed = "\n".join(sql_files.render(path, "public") for path in sql_files.objects().values())
    counted: Counter[tuple[str, int, str]] = Counter()
    for file in DIRECTORY.glob("plpgsql-*.json"):
        for function, body, line, kind, times in json.loads(file.read_text("utf-8")):
            if body in installed:
                counted[function, line, f"{kind}: {body.splitlines()[line - 1].strip()}"] += times
    never = sorted(statement for statement, times in counted.items() if not times)
    for function, line, statement in never:
        print(f"dagbump.{function}:{line}: {statement}")
    return _row(len(counted), len(never))


def of_python() -> dict[str, dict[str, Any]]:
    """Count lines and branches; those of the plugin apart, because they run in Airflow's own Python."""
    files = json.loads((DIRECTORY / "python.json").read_text("utf-8"))["files"]
    counted: dict[str, Counter[str]] = {}
    for path, file in files.items():
        where = "the plugin" if PLUGIN in Path(path).parts else "all but the plugin"
        summary = file["summary"]
        counted.setdefault(where, Counter()).update(summary)
        if summary["missing_lines"] or summary["missing_branches"]:
            print(f"{path}: lines {file['missing_lines']}, branches {file['missing_branches']}")
    rows = {}
    for where, sums in counted.items():
        rows[f"lines of Python, {where}"] = _row(sums["num_statements"], sums["missing_lines"])
        rows[f"branches of Python, {where}"] = _row(sums["num_branches"], sums["missing_branches"])
    return rows


def _row(number: int, never: int) -> dict[str, Any]:
    return {"number": number, "run by a test": number - never, "never run": never}


if __name__ == "__main__":
    arguments = f' ARGS="{shlex.join(sys.argv[1:])}"' if sys.argv[1:] else ""
    proof.record(TITLE, f"make coverage{arguments}", {"statements of PL/pgSQL": of_plpgsql(), **of_python()})
