"""The page "DAG versions" in Airflow's web UI: the drift, why it is there, and a button that mends it.

Airflow's API server mounts `Page` under ``/dagbump``. What it consists of is imported with the first request, by that
process alone; a scheduler imports this module and no more, so never FastAPI.

    application   the FastAPI app: routes, headers, and what an error looks like
    access        who asks, and which DAGs they may see and edit; the token without which nothing is written
    turns         few requests at a time, and none whose client has gone
    database      the transactions in which dagbump's functions are called, after a look whether it is there and ours
    airflow_tables
                  which DAGs there are to ask the auth manager about; Airflow's audit log
    runs, versions, history
                  what each of the three tabs shows, as the templates take it
    templates/    HTML, by Jinja;   static/   the style sheet and the one script

It shows what dagbump's SQL functions answer. The auth manager is asked only about DAGs that the answer names, and while
no connection is held.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import cached_property
from typing import Any, TypeAlias
from urllib.parse import urlsplit

URL_PREFIX = "/dagbump"

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Page:
    """The page as an ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._application(scope, receive, send)

    @cached_property
    def _application(self) -> Any:
        from dagbump.airflow_plugin.page.application import create_application

        return create_application()


def page_in_menu() -> dict[str, str]:
    """Return what Airflow's UI needs for an entry in its menu, that shows the page in a frame."""
    from airflow.configuration import conf

    # As Airflow's own API server does; there may be none.
    path = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
    return {
        "name": "DAG versions",
        "href": f"{path}{URL_PREFIX}/",
        "destination": "nav",
        "category": "browse",
        "url_route": "dag-versions",
        "icon": f"{path}{URL_PREFIX}/static/icon.svg",
        "icon_dark_mode": f"{path}{URL_PREFIX}/static/icon-dark.svg",
    }
