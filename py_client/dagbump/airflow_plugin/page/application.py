"""The FastAPI app of the page: its routes, the headers of each response, and the error pages.

Each route that reads the database needs an `access.AnyViewer`. Only the style sheet, the script and the icons are open
to everybody. Without a login, the response is a page that says so; its script may find the login and load the page
again.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Query, Request, Response, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dagbump.airflow_plugin.page import airflow_tables, bumping
from dagbump.airflow_plugin.page.access import AnyViewer, AnyWriter, log_in_page
from dagbump.airflow_plugin.page.database import is_connection_lost, transaction
from dagbump.airflow_plugin.page.filter import Filter
from dagbump.airflow_plugin.page.history import history_entries
from dagbump.airflow_plugin.page.listing import LAST_PAGE, PAGE_SIZES, PER_PAGE, Listing
from dagbump.airflow_plugin.page.moving import BATCH_RUNS, Plan, movable
from dagbump.airflow_plugin.page.rendering import render
from dagbump.airflow_plugin.page.runs import runs_tab
from dagbump.airflow_plugin.page.turns import RETRY_AFTER_SECONDS, TakingTurns
from dagbump.airflow_plugin.page.versions import versions_tab
from dagbump.errors import DagbumpError, summary

log = logging.getLogger("dagbump.airflow_plugin")

_HERE = Path(__file__).parent
_HEADERS = {
    # Load nothing from other hosts, run scripts and styles only from our files, and allow only Airflow's frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
# Airflow's words for a login that was signed with another key.
_REFUSED_LOGIN = "Invalid JWT token"

Search = Annotated[str, Query(max_length=250, pattern=r"^[^\x00]*$")]  # a text in PostgreSQL has no NUL
RunId = Annotated[int, Field(ge=0, lt=2**63)]  # a bigint
PageNumber = Annotated[int, Query(ge=1, le=LAST_PAGE)]


def listing_of(
    search: Search = "",
    sort: Search = "",
    page: PageNumber = 1,
    size: Annotated[int, Query(ge=1, le=max(PAGE_SIZES))] = PER_PAGE,
) -> Listing:
    """Read the query in the address of a tab."""
    return Listing(search.strip(), sort, page, size)


Wanted: TypeAlias = Annotated[Listing, Depends(listing_of)]


def filter_of(
    listing: Wanted,
    verdict: Search = "",
    open: RunId | None = None,  # noqa: A002  (the name in the address)
    tasks: PageNumber = 1,
) -> Filter:
    """Read the query in the address of the first tab."""
    return Filter(**asdict(listing), verdict=verdict, open=open, tasks=tasks)


WantedRuns: TypeAlias = Annotated[Filter, Depends(filter_of)]


class BumpRequest(BaseModel):
    """The body of the button's request.

    Attributes:
        dag_run_ids: the runs of this batch.
        so_far: the totals in the answer to the batch before it. They are only added up.
    """

    dag_run_ids: list[RunId] = Field(max_length=BATCH_RUNS)
    so_far: bumping.Totals = bumping.Totals()


class _Files(StaticFiles):
    def lookup_path(self, path: str) -> Any:
        """Find a file. No file has a NUL in its path; Starlette raises for it, up to the one beside Airflow 3.0."""
        try:
            return super().lookup_path(path)
        except ValueError:
            return "", None


def create_application() -> ASGIApp:
    """Make the app that Airflow mounts."""
    return _with_headers(create_routes())


def create_routes() -> FastAPI:
    """Make the app without our headers."""
    app = FastAPI(title="dagbump", docs_url=None, redoc_url=None, openapi_url=None)
    app.router.route_class = TakingTurns
    app.mount("/static", _Files(directory=_HERE / "static"), name="static")
    app.add_api_route("/", show_runs, response_class=HTMLResponse)
    app.add_api_route("/move", show_all_to_move, response_class=HTMLResponse)
    app.add_api_route("/versions", show_versions, response_class=HTMLResponse)
    app.add_api_route("/history", show_history, response_class=HTMLResponse)
    app.add_api_route("/bump", bump_shown, methods=["POST"], response_class=HTMLResponse)
    app.exception_handler(DagbumpError)(_show_dagbump_error)
    app.exception_handler(HTTPException)(_show_http_error)
    app.exception_handler(RequestValidationError)(_show_not_understood)
    app.exception_handler(sa.exc.DBAPIError)(_show_database_error)
    app.exception_handler(Exception)(_show_other_error)
    return app


def show_runs(request: Request, viewer: AnyViewer, wanted: WantedRuns) -> Response:
    """Show whether all task instances are on the latest version, and the runs with problems."""
    running = airflow_tables.dag_ids_of_running_runs()
    readable = viewer.readable(running)
    scheduler_is_alive = airflow_tables.scheduler_is_alive()
    with transaction() as connection:
        tab = runs_tab(connection, readable, wanted, some_hidden=len(readable) < len(running))
    tab = tab.for_editor_of(viewer.editable(tab.judged_dag_ids))
    return render(
        request,
        "runs.html",
        tab=tab,
        listing=wanted,
        plan=tab.plan,
        token=viewer.token,
        scheduler_is_alive=scheduler_is_alive,
    )


def show_all_to_move(request: Request, viewer: AnyViewer, wanted: WantedRuns) -> Response:
    """Ask whether to move what is on all pages of the runs."""
    readable = viewer.readable(airflow_tables.dag_ids_of_running_runs())
    with transaction() as connection:
        runs = movable(connection, readable, wanted)
    editable = viewer.editable({run.dag_id for run in runs})
    plan = Plan([run for run in runs if run.dag_id in editable])
    return render(
        request, "move.html", plan=plan, refused=len(runs) - len(plan.runs), listing=wanted, token=viewer.token
    )


def show_versions(request: Request, viewer: AnyViewer, wanted: Wanted) -> Response:
    """Show the versions of each DAG."""
    return render(request, "versions.html", tab=versions_tab(viewer, wanted), listing=wanted)


def show_history(request: Request, viewer: AnyViewer, wanted: Wanted) -> Response:
    """Show what bumps have moved."""
    return render(request, "history.html", entries=history_entries(viewer, wanted), listing=wanted)


def bump_shown(request: Request, viewer: AnyWriter, wanted: BumpRequest) -> Response:
    """Bump runs that were shown, in the safe form, and show the result."""
    return render(request, "bumped.html", report=bumping.bump(viewer, wanted.dag_run_ids, wanted.so_far))


def _with_headers(app: ASGIApp) -> ASGIApp:
    """Wrap an app so that each response, also an error page, has our headers."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if not scope["path"].rpartition("/static/")[1]:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await app(scope, receive, send_with_headers)

    return answer


async def _show_dagbump_error(request: Request, error: Any) -> Response:
    return _show_error(request, status.HTTP_503_SERVICE_UNAVAILABLE, str(error))


async def _show_http_error(request: Request, error: Any) -> Response:
    refused = error.detail == _REFUSED_LOGIN
    if refused or error.status_code == status.HTTP_401_UNAUTHORIZED:
        return render(request, "signing_in.html", error.status_code, login=log_in_page(request), refused=refused)
    answer = _show_error(request, error.status_code, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def _show_not_understood(request: Request, _error: Any) -> Response:
    said = "The page does not understand this request.\nUse the tabs above."
    return _show_error(request, status.HTTP_400_BAD_REQUEST, said)


async def _show_database_error(request: Request, error: Any) -> Response:
    if not is_connection_lost(error):
        return await _show_other_error(request, error)
    log.warning("The page has lost its database connection: %s", summary(error))
    said = "The connection to the database was lost.\nTry again. If that does not help, PostgreSQL is not running."
    answer = _show_error(request, status.HTTP_503_SERVICE_UNAVAILABLE, said, may_have_written=True)
    answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


async def _show_other_error(request: Request, error: Exception) -> Response:
    log.error("The page has failed", exc_info=error)
    said = "This went wrong.\nThe API server's log says more."
    return _show_error(request, status.HTTP_500_INTERNAL_SERVER_ERROR, said, may_have_written=True)


def _show_error(request: Request, status_code: int, said: str, *, may_have_written: bool = False) -> Response:
    """Show an error. The first line of the text is the error, the rest says what to do.

    An unexpected error may have come after the COMMIT, or instead of the answer to it.
    """
    title, _, advice = said.partition("\n")
    writes = request.method == "POST"
    is_unchanged = writes and not may_have_written
    return render(
        request, "error.html", status_code, title=title, advice=advice, writes=writes, is_unchanged=is_unchanged
    )
