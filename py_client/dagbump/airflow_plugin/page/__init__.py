"""The page "Dag versions" in Airflow's UI: which task instances are stale and why, with a button that bumps them.

Airflow's API server mounts `Page` under ``/dagbump``. The API server imports the other modules at the first request. A
scheduler imports only this module, so it never imports FastAPI.

    application   the FastAPI app: routes, headers and error pages
    access        the user, the DAGs that the user may see and edit, and the token that each write needs
    turns         limits the number of requests at a time, and ends a request if its client has gone
    database      the transactions in which dagbump's functions are called, after a check of the installation
    airflow_tables
                  reads DAG ids, about which the auth manager is asked; writes Airflow's audit log
    runs, versions, history
                  the contents of the three tabs, in the form that the templates need
    listing, paging
                  the query of each tab's address: search, order, page; and the page that is cut by it
    filter, overview
                  what the first tab's address says besides, and the one statement that counts, sorts and cuts the runs
    answers, advice, tasks
                  what the first tab says of them, what to do, and the tasks of an open run
    words         the texts that are shared with the command line, in the words of Airflow's UI
    moving, bumping
                  what the button is to move, and the button
    plugin_state  whether the scheduler's plugin is on
    templates/    Jinja templates;   static/   the style sheet and the script

The page shows the rows of dagbump's SQL functions. All of its state is in the query of its address. The auth manager is
asked only about DAGs in these rows, and only while no database connection is held.
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
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class Page:
    """The page as an ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._application(scope, receive, send)

    @cached_property
    def _application(self) -> Any:
        from dagbump.airflow_plugin.page.application import create_application

        return create_application()


class SlashAdded:
    """A middleware of the API server that leads from ``/dagbump`` to the page; Airflow mounts only what is below it.

    The answer's address is relative, so that it is right behind every proxy.
    """

    def __init__(self, app: Application) -> None:
        """Stand in front of an app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http" or scope["path"].removeprefix(scope.get("root_path", "")) != URL_PREFIX:
            await self._app(scope, receive, send)
            return
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        location = URL_PREFIX.removeprefix("/").encode() + b"/" + query
        await send({"type": "http.response.start", "status": 307, "headers": [(b"location", location)]})
        await send({"type": "http.response.body"})


def page_in_menu() -> dict[str, str]:
    """Return the entry for Airflow's menu; it shows the page in a frame."""
    from airflow.configuration import conf

    # Airflow's API server takes the path from base_url in the same way; base_url may be empty.
    path = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
    return {
        "name": "Dag versions",
        "href": f"{path}{URL_PREFIX}/",
        "destination": "nav",
        "category": "browse",
        "url_route": "dag-versions",
        "icon": f"{path}{URL_PREFIX}/static/icon.svg",
        "icon_dark_mode": f"{path}{URL_PREFIX}/static/icon-dark.svg",
    }
