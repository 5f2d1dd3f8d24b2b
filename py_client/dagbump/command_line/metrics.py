"""Serves Prometheus metrics of ``dagbump run``, and says whether it is alive and ready. Needs ``dagbump[metrics]``.

    /metrics   the metrics, in the format that the request accepts
    /healthz   200 as long as the process answers
    /readyz    200 if a bump has succeeded, or another copy has been found active, within three intervals, else 503

The stale task instances and missing tasks come from ``dagbump.preview``, which is called at most once a minute.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily

from dagbump import __version__
from dagbump.errors import DagbumpError, sqlstate
from dagbump.results import BumpResult, RunPreview

if TYPE_CHECKING:
    from dagbump.command_line.periodic_bump import Reporter

# The DAGs that get a series of their own: those with the most stale task instances, or missing tasks.
_MOST_DAGS = 50
_OTHERS = "(others)"  # no dag_id may contain parentheses
# A copy counts as ready for at least this time, because an interval may be shorter than a bump.
_LEAST_READY_SECONDS = 3.0
_ANSWER_SECONDS = 10.0  # the time for which a client may keep a thread waiting
_MOST_CLIENTS = 64  # each needs a thread and an open file, and the bumps need files too


class Metrics:
    """A reporter that counts all reports, and passes them on."""

    def __init__(self, reporter: Reporter, interval: float) -> None:
        """Set all metrics to zero.

        Args:
            reporter: the reporter to which all reports are passed.
            interval: seconds between two bumps.
        """
        self._reporter = reporter
        self._ready_seconds = max(3 * interval, _LEAST_READY_SECONDS)
        self._succeeded_at = float("-inf")  # of the monotonic clock
        self.registry = registry = CollectorRegistry()
        self._seconds = Histogram(
            "dagbump_bump_duration_seconds", "Duration of the bumps that succeeded.", registry=registry
        )
        self._bumped = Counter(
            "dagbump_task_instances_bumped",
            "Task instances moved to the latest version of their DAG.",
            registry=registry,
        )
        self._locked = Gauge(
            "dagbump_task_instances_locked",
            "Stale task instances that the last bump left, because another transaction had locked them.",
            registry=registry,
        )
        self._unverified = Gauge(
            "dagbump_runs_needing_verify",
            "DAG runs that the last bump left to the scheduler, because verify_integrity is due.",
            registry=registry,
        )
        self._errors = Counter(
            "dagbump_errors",
            "Bumps and previews that failed, by SQLSTATE; empty if the error has none, as for a refused connection.",
            ["sqlstate"],
            registry=registry,
        )
        self._last_success = Gauge(
            "dagbump_last_success_timestamp_seconds", "Time of the last bump that succeeded.", registry=registry
        )
        self._active = Gauge(
            "dagbump_active", "1 if this copy bumps, 0 if it stands by because another copy does.", registry=registry
        )
        self._preview = _Preview()
        registry.register(self._preview)

    def result(self, result: BumpResult, seconds: float) -> None:
        """Count a bump that succeeded."""
        self._is_ready()
        self._active.set(1)
        self._seconds.observe(seconds)
        self._bumped.inc(result.bumped)
        self._locked.set(result.locked)
        self._unverified.set(len(result.needs_verify))
        self._last_success.set_to_current_time()
        self._reporter.result(result, seconds)

    def trouble(self, error: BaseException) -> None:
        """Count an error; until a bump succeeds, this copy does not bump."""
        self._active.set(0)
        self._count(error)
        self._reporter.trouble(error)

    def preview_failed(self, error: BaseException) -> None:
        """Count an error."""
        self._count(error)
        self._reporter.preview_failed(error)

    def recovered(self) -> None:
        """Pass it on."""
        self._reporter.recovered()

    def stands_by(self, other: str) -> None:
        """Record that another copy is the active one, and forget what only that one knows now."""
        self._is_ready()
        self._active.set(0)
        self._locked.set(0)
        self._unverified.set(0)
        self._preview.forget()
        self._reporter.stands_by(other)

    def previewed(self, revision: str, runs: Iterable[RunPreview]) -> None:
        """Replace the metrics about the state of the database."""
        self._preview.replace(revision, runs)

    def is_ready(self) -> bool:
        """Return whether a bump has succeeded, or another copy has been found active, within three intervals."""
        return time.monotonic() - self._succeeded_at <= self._ready_seconds

    def _count(self, error: BaseException) -> None:
        cause = error.__cause__ if isinstance(error, DagbumpError) and error.__cause__ else error
        self._errors.labels(sqlstate(cause) or "").inc()

    def _is_ready(self) -> None:
        self._succeeded_at = time.monotonic()


class _Preview:
    """The metrics about the state of the database, which are replaced together."""

    def __init__(self) -> None:
        self._families: list[GaugeMetricFamily] = []

    def replace(self, revision: str, runs: Iterable[RunPreview]) -> None:
        stale: Tally[str] = Tally()
        missing: Tally[str] = Tally()
        for run in runs:
            stale[run.dag_id] += run.stale
            missing[run.dag_id] += len(run.missing_tasks or ())
        about = GaugeMetricFamily("dagbump_info", "1, with the releases of dagbump.", labels=["version", "revision"])
        about.add_metric([__version__, revision], 1)
        self._families = [
            about,
            _by_dag("dagbump_stale_task_instances", "Stale task instances in running DAG runs.", stale),
            _by_dag("dagbump_missing_tasks", "Tasks of the latest version that a running DAG run lacks.", missing),
            GaugeMetricFamily(
                "dagbump_preview_timestamp_seconds", "Time of the preview that these metrics come from.", time.time()
            ),
        ]

    def forget(self) -> None:
        self._families = []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics; the registry calls this for each request."""
        yield from self._families


def _by_dag(name: str, what: str, counts: Tally[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        name, f"{what} The {_MOST_DAGS} DAGs with the most; the rest is in one.", labels=["dag_id"]
    )
    most = [item for item in counts.most_common(_MOST_DAGS) if item[1]]
    for dag_id, count in most:
        family.add_metric([dag_id], count)
    if others := counts.total() - sum(count for _, count in most):
        family.add_metric([_OTHERS], others)
    return family


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = _MOST_CLIENTS

    def __init__(self, *arguments: Any) -> None:
        self._clients: deque[Any] = deque()
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Bind, but do not ask DNS for the name of the machine, as HTTPServer does, because DNS may not answer."""
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; if there are too many clients, close the oldest connection."""
        if len(self._clients) == _MOST_CLIENTS:
            with suppress(OSError):
                self._clients.popleft().shutdown(socket.SHUT_RDWR)
        self._clients.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection."""
        with suppress(ValueError):  # process_request has closed it
            self._clients.remove(request)
        super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        """Print nothing, because a client that goes away, or says nothing, would fill the log with tracebacks."""


class _Handler(WSGIRequestHandler):
    timeout = _ANSWER_SECONDS

    def log_message(self, *_: object) -> None:
        """Log nothing, because each scrape would be a line."""


def serve(metrics: Metrics, address: str, port: int) -> int:
    """Serve the metrics from a thread of this process, until it ends; return the port.

    Raises:
        OSError: the address or the port cannot be used.
    """
    app = make_wsgi_app(metrics.registry)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            found: Iterable[bytes] = app(environ, start_response)
            return found
        texts = {
            "/healthz": ("200 OK", b"alive\n"),
            "/readyz": ("200 OK", b"ready\n") if metrics.is_ready() else ("503 Service Unavailable", b"not ready\n"),
        }
        status, text = texts.get(path, ("404 Not Found", b"/metrics, /healthz or /readyz\n"))
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [text]

    family, *_ = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    kind = type("_Server", (_Server,), {"address_family": family})
    server: WSGIServer = make_server(address, port, answer, server_class=kind, handler_class=_Handler)
    threading.Thread(target=server.serve_forever, name="dagbump-metrics", daemon=True).start()
    return int(server.server_port)
