"""Renders templates to HTML; Jinja escapes every value, because values from the database are plain text."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from dagbump import __version__
from dagbump.airflow_plugin.page import URL_PREFIX
from dagbump.airflow_plugin.page.listing import LAST_PAGE, PAGE_SIZES
from dagbump.wording import age, counted

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(request: Request, template: str, status_code: int = 200, **values: Any) -> HTMLResponse:
    """Return a response with a rendered template.

    Args:
        request: the request to answer.
        template: the file of the template.
        status_code: the HTTP status.
        **values: the values for the template.
    """
    root = str(request.scope.get("root_path", "")).removesuffix(URL_PREFIX)
    text = _ENVIRONMENT.get_template(template).render(
        airflow=root, here=f"{root}{URL_PREFIX}", version=__version__, now=datetime.now(timezone.utc), **values
    )
    return HTMLResponse(text, status_code)


def _dag_url(airflow: str, dag_id: str, run_id: str | None = None) -> str:
    dag = f"{airflow}/dags/{quote(dag_id, safe='')}"
    return dag if run_id is None else f"{dag}/runs/{quote(run_id, safe='')}"


def _task_url(airflow: str, dag_id: str, run_id: str | None, task_id: str, map_index: int | None) -> str:
    mapped = "" if map_index is None else f"/mapped/{map_index}"
    return f"{_dag_url(airflow, dag_id, run_id)}/tasks/{quote(task_id, safe='')}{mapped}"


def _with_code(text: str) -> Markup:
    """Return a text as HTML, with what is between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    parts[1::2] = [Markup("<code>{}</code>").format(part) for part in parts[1::2]]
    return Markup("").join(parts)


_ENVIRONMENT.globals.update(
    dag_url=_dag_url, task_url=_task_url, counted=counted, age=age, page_sizes=PAGE_SIZES, last_page=LAST_PAGE
)
_ENVIRONMENT.filters["with_code"] = _with_code
