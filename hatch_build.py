"""Writes the commit into sdist and wheel, so that `dagbump --version` names it there too. hatchling calls this."""

from __future__ import annotations

import runpy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PLACES = {"sdist": "py_client/dagbump/COMMIT", "wheel": "dagbump/COMMIT"}


class CommitHook(BuildHookInterface[Any]):
    """Adds the file COMMIT to the package, if a checkout is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the file beside the checkout, because a build must not change the checkout."""
        self._directory = TemporaryDirectory(prefix="dagbump-build-")
        module = runpy.run_path(str(Path(self.root, "py_client", "dagbump", "commit.py")))
        # An sdist has the file already. An editable installation asks git.
        if version == "editable" or module["STAMP"].exists():
            return
        commit = module["commit"]()
        if commit:
            stamp = Path(self._directory.name, "COMMIT")
            stamp.write_text(f"{commit}\n", encoding="utf-8")
            build_data["force_include"][str(stamp)] = _PLACES[self.target_name]

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002  (hatchling's)
        """Remove the file."""
        self._directory.cleanup()
