"""Reads the options of section [dagbump] from Airflow's configuration."""

from __future__ import annotations

from configparser import InterpolationError
from typing import Any

from dagbump.airflow_plugin.compatibility import UnfitError
from dagbump.airflow_settings import OPTIONS

_MOST = 300  # letters of an error, which repeats the value


def is_enabled() -> bool:
    """Return whether the scheduler calls dagbump.

    Raises:
        UnfitError: the option is neither True nor False.
    """
    return bool(_read("getboolean", "enabled", "True or False"))


def seconds(name: str) -> float:
    """Return an option that is a number of seconds, or 0 for never.

    Raises:
        UnfitError: it is not.
    """
    value = float(_read("getfloat", name, "a number of seconds"))
    if not value >= 0:  # also refuses "nan"
        raise UnfitError(f"[dagbump] {name} is {value:g}; it may be a number of seconds, or 0 for never")
    return value


def _read(getter: str, name: str, may_be: str) -> Any:
    from airflow.configuration import conf
    from airflow.exceptions import AirflowConfigException

    try:
        return getattr(conf, getter)("dagbump", name, fallback=OPTIONS[name]["default"])
    except AirflowConfigException as error:
        raise UnfitError(f"{_short(error)} It may be {may_be}") from error
    except InterpolationError as error:  # a % in airflow.cfg
        raise UnfitError(f"[dagbump] {name} cannot be read: {_short(error)}. It may be {may_be}") from error


def _short(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"
