"""The texts that the page shares with the command line, in the words of Airflow's UI, which says "Dag"."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from functools import cache
from typing import Any, TypeVar

from dagbump import verdicts
from dagbump.verdicts import Advice, Verdict

_Texts = TypeVar("_Texts", Advice, Verdict)


@cache
def verdict_of(name: str) -> Verdict:
    """Return the texts for a verdict."""
    return _in_words_of_airflow(verdicts.verdict_of(name))


def _in_words_of_airflow(texts: _Texts) -> _Texts:
    found = {field.name: getattr(texts, field.name) for field in fields(texts)}
    said = {name: _said(value) for name, value in found.items()}
    return replace(texts, **said)


def _said(value: Any) -> Any:
    if isinstance(value, Advice):
        return _in_words_of_airflow(value)
    return re.sub(r"\bDAG(s?)\b", r"Dag\1", value) if isinstance(value, str) else value
