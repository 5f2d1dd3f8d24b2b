"""Whatever the plugin's options are, a scheduler starts. Whatever is sent to the page, only who may write writes.

The scheduler's functions are called in a worker, and the page is that of a real API server, both of
`environments.release`. `make prove ARGS="-k bad"` tries more.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_from_bytes, urlsplit

import psycopg
import pytest
from dagbump.airflow_settings import OPTIONS
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from sqlalchemy.engine import URL
from support import bad_input, proof, server
from support.fleet import Fleet
from support.page import Served, fill, routes_of
from support.releases import environments
from support.releases.live_dag import LiveDag
from support.releases.web import SIMPLE_USERS, Web
from support.releases.worker import Worker, start_worker

pytestmark = [pytest.mark.airflow, pytest.mark.proof]

OF_OPTIONS, REQUESTS = (2_000, 4_000) if proof.LONG else (150, 250)
RELEASE = f"Airflow {environments.release()}"


@pytest.fixture
def tried() -> Iterator[Counter[str]]:
    counted: Counter[str] = Counter()
    yield counted
    proof.record(bad_input.TITLE, bad_input.COMMAND, counted)


# ---- Options of the plugin

SCRIPT = Path(__file__).parents[1] / "support" / "inside_airflow" / "plugin.py"
STAYS_OFF = "WARNING: dagbump stays off: "
YES, NO = ("t", "true", "1"), ("f", "false", "0")
# What somebody may write who has read half of the documentation.
LIKELY = st.sampled_from(
    [
        *("True", "False", " tRUE ", "1", "0", "t", "true # since June", "yes", "on", "None", "[True]", "'True'"),
        *("60", "0.5", "-0.0", "-1", "1e400", "-1e400", "nan", "inf", "1_000", "60s", "1m", "60,0", "0x3c", "٦٠"),
        *("100%", "%(nothing)s", "%(enabled)s", "%%", "$HOME", "${NOTHING}", "~", "$", "60 ; a minute"),
    ]
)
NUMBERS = st.floats().map(str) | st.integers(-(2**70), 2**70).map(str)
VALUES = LIKELY | NUMBERS | bad_input.texts()


@pytest.fixture(scope="module")
def worker(airflow_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    home = tmp_path_factory.mktemp("airflow")
    with start_worker(environments.release(), airflow_url, home, {}, SCRIPT) as worker:
        yield worker


def options() -> SearchStrategy[dict[str, str]]:
    """Values of some options; in most cases the plugin is to be on, because only then it reads the others."""
    return st.fixed_dictionaries(
        {"enabled": st.just("True") | VALUES}, optional=dict.fromkeys(sorted(OPTIONS.keys() - {"enabled"}), VALUES)
    )


def refused(given: Mapping[str, str]) -> list[str]:
    """Return the options that are not what the documentation allows."""
    return [
        name
        for name, value in given.items()
        if not (is_wanted(value) in {True, False} if name == "enabled" else is_seconds(value))
    ]


def is_wanted(value: str) -> bool | None:
    word = value.lower().strip().partition("#")[0].strip()
    return True if word in YES else False if word in NO else None


def is_seconds(value: str) -> bool:
    try:
        return float(value) >= 0
    except ValueError:
        return False


ALLOWED: Mapping[str, Callable[[str], bool]] = {
    "enabled": lambda value: is_wanted(value) is not None,
    "missing_tasks_interval": is_seconds,
    "warn_held_after": is_seconds,
}


def test_any_bad_options(worker: Worker, airflow_url: URL, tried: Counter[str]) -> None:
    @bad_input.generated(OF_OPTIONS)
    @given(options(), st.booleans())
    @example(given={"enabled": "x" * 100_000}, in_file=False)
    def starts(given: dict[str, str], in_file: bool) -> None:
        if in_file:
            given = {name: " ".join(value.split()) for name, value in given.items()}
        worker("stop_scheduler")
        answer = worker("start_scheduler_configured", options=given, in_file=in_file)
        tried[f"options of the plugin, {RELEASE}"] += 1
        wanted, wrong = is_wanted(given["enabled"]), refused(given)
        assert answer["shown"] is wanted, given
        is_on = wanted is True and not wrong
        assert worker("is_stock") is not is_on, (given, answer)
        if wanted is False:
            assert answer["logged"] == [], given
        elif not is_on:
            (warning,) = answer["logged"]
            assert warning.startswith(STAYS_OFF), given
            assert any(name in warning for name in wrong), (given, warning)
            assert len(warning) < 1_000, warning
        loop = worker("loop")
        assert (loop["error"], loop["logged"], len(loop["bumps"])) == (None, [], int(is_on)), given

    with psycopg.connect(server.libpq(airflow_url), autocommit=True) as connection:
        dag = LiveDag(worker, connection)
        dag.start('task("A")', {"A": "running"})
        starts()
        worker("stop_scheduler")
        dag.finish()


# ---- The page

NOBODY = "nobody"
FORGED = "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhZG1pbiJ9.forged"
# What no answer may hold: where the database is, keys, and the inside of Python.
SECRETS = re.compile(
    r'a secret of the tests|postgresql(\+psycopg2)?://|Traceback|File "|psycopg2\.|sqlalche\.me', re.ASCII
)
METHODS = st.sampled_from(
    ["GET"] * 6 + ["POST"] * 4 + ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "BREW"]
)
PARTS = st.sampled_from(["", ".", "..", "static", "page.css", "bump", "%00", "%2e%2e", "%2F", "%ff", "%", "a" * 300])
TEXTS = bad_input.texts() | st.sampled_from(["\x00", "a\x00", "\r\nSet-Cookie: a=b", "etl", "needs_verify", "-verdict"])
IDS = st.integers(-2, 40) | st.integers(-(2**70), 2**70)
IN_QUERY = TEXTS | IDS.map(str) | st.sampled_from(["1e3", "1.0", "٣", "9" * 5_000, "true", "[]", "1000000", "250"])
NAMES = st.sampled_from(["search", "sort", "page", "size", "verdict", "open", "tasks", "next", ""])
IN_HEADERS = st.binary(max_size=40).map(lambda value: re.sub(rb"[\r\n]", b"", value))
CONTENT_TYPES = st.sampled_from(
    [
        *(None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml"),
        *("application/json; charset=utf-7", "application/json; charset=nonsense", ";", "json"),
    ]
)
OTHER_HEADERS = {
    "Host": st.sampled_from([b"[", b"[::1", b"", b"a b", b"evil.example", b"127.0.0.1:x", b"\xff"]) | IN_HEADERS,
    "Cookie": st.sampled_from([b"_token=", b"_token=forged", b"_token=\xff", b"session=.", b";;=;"]) | IN_HEADERS,
    "Range": st.sampled_from(
        [b"bytes=5-1", b"bytes=0-0,1-1", b"bytes=-1", b"bytes=x", b"lines=1-2", b"bytes=9999999-"]
    ),
    "Accept": st.sampled_from([b"application/json", b"", b"*/*;q=x"]) | IN_HEADERS,
    "Accept-Encoding": st.sampled_from([b"gzip", b"br;q=x", b"identity;q=0"]),
    "If-Modified-Since": st.sampled_from([b"yesterday", b"Thu, 01 Jan 1970 00:00:00 GMT", b"9" * 30]),
    "If-None-Match": st.sampled_from([b"*", b'"x"', b"\xff"]),
    "X-Forwarded-Prefix": IN_HEADERS,
    "Origin": st.sampled_from([b"null", b"http://evil.example"]),
}


@dataclass(frozen=True)
class Sent:
    """A request; login and token are those of a user, of nobody, or forged."""

    method: str
    target: str
    login: str
    token: str
    headers: Mapping[str, bytes]
    body: bytes | None

    @property
    def may_write(self) -> bool:
        """Whether a user who may edit pressed the button."""
        by_button = self.method == "POST" and urlsplit(self.target).path == "/dagbump/bump"
        return by_button and self.login == self.token and self.login in {"admin", "user"}


def targets(paths: Sequence[str]) -> SearchStrategy[str]:
    """Each path of the page, in most cases, with a query; and paths that are not there."""
    query = st.lists(st.tuples(NAMES, IN_QUERY.map(lambda text: quote(text, safe="")) | PARTS), max_size=4).map(
        lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)
    )
    others = st.lists(PARTS | st.binary(max_size=8).map(quote_from_bytes), max_size=4).map(
        lambda parts: "/" + "/".join(parts)
    )
    path = st.sampled_from(paths) | st.sampled_from(paths) | others | others.map(lambda path: f"/static{path}")
    return st.tuples(path, query).map(lambda one: f"/dagbump{one[0]}?{one[1]}")


def bodies() -> SearchStrategy[bytes | None]:
    values = st.recursive(
        st.none() | st.booleans() | IDS | st.floats() | bad_input.texts(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=10,
    )
    totals = st.sampled_from(["moved", "locked", "refused", "nonsense"])
    pressed = st.fixed_dictionaries(
        {"dag_run_ids": st.lists(IDS, max_size=10) | st.lists(IDS, max_size=300) | values},
        optional={"so_far": st.dictionaries(totals, IDS, max_size=2) | values},
    )
    broken = st.sampled_from(
        [b"", b"{", b"[" * 100_000, b'{"dag_run_ids": [1', b"\xff\xfe", b'{"dag_run_ids": "\\ud800"}']
    )
    whole = pressed | pressed | values
    return whole.map(lambda value: json.dumps(value).encode()) | broken | st.binary(max_size=40) | st.none()


def requests(paths: Sequence[str]) -> SearchStrategy[Sent]:
    who = st.sampled_from(["admin", "admin", "user", "viewer", NOBODY, "forged"])
    headers = st.fixed_dictionaries({}, optional=OTHER_HEADERS)
    return st.builds(with_type, METHODS, targets(paths), who, who, st.just({}) | headers, bodies(), CONTENT_TYPES)


def with_type(
    method: str, target: str, login: str, token: str, headers: dict[str, bytes], body: bytes | None, kind: str | None
) -> Sent:
    """Half of the requests have no other header than those that the page's own script sends."""
    kind = kind if headers else "application/json"
    return Sent(method, target, login, token, headers | ({"Content-Type": kind.encode()} if kind else {}), body)


@dataclass(frozen=True)
class Client:
    """Sends requests to an API server, with the logins and tokens of its users."""

    web: Web
    logins: Mapping[str, str]
    tokens: Mapping[str, str]

    def send(self, sent: Sent) -> tuple[int, str]:
        """Return the status, and all of the answer as text."""
        headers = {"Host": urlsplit(self.web.url).netloc.encode(), **sent.headers}
        if sent.login != NOBODY:
            headers["Authorization"] = f"Bearer {self.logins[sent.login]}".encode()
        if sent.token != NOBODY:
            headers["X-Dagbump-Token"] = self.tokens[sent.token].encode()
        if sent.body is not None:
            headers["Content-Length"] = str(len(sent.body)).encode()
        with closing(HTTPConnection(urlsplit(self.web.url).netloc, timeout=60)) as connection:
            connection.putrequest(sent.method, sent.target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(sent.body)
            answer = connection.getresponse()
            return answer.status, f"{answer.headers}\n{answer.read().decode(errors='replace')}"


def client_of(web: Web) -> Client:
    """Log all users in, and read the tokens of those who have a button."""
    logins = {"forged": FORGED}
    for name in SIMPLE_USERS:
        body = json.dumps({"username": name, "password": name}).encode()
        asked = Sent("POST", "/auth/token", NOBODY, NOBODY, {"Content-Type": b"application/json"}, body)
        logins[name] = re.findall(r'"access_token": ?"([^"]+)"', Client(web, {}, {}).send(asked)[1])[0]
    tokens = {"forged": "forged", "viewer": ""}
    for name in ("admin", "user"):
        page = Client(web, logins, {}).send(Sent("GET", "/dagbump/", name, NOBODY, {}, None))[1]
        tokens[name] = re.findall('data-token="([^"]+)"', page)[0]
    return Client(web, logins, tokens)


FILLED = "CREATE TEMPORARY TABLE filled AS SELECT id, dag_version_id FROM task_instance"
RESTORE = """
    UPDATE task_instance AS ti SET dag_version_id = filled.dag_version_id FROM filled WHERE filled.id = ti.id
"""


def test_any_bad_requests(served: Served, emptied: Fleet, tried: Counter[str]) -> None:
    fill(emptied)
    emptied.execute(FILLED)
    web, client = served[0], client_of(served[0])
    paths = [path for path, _ in routes_of(web)]
    answered: Counter[int] = Counter()

    @bad_input.generated(REQUESTS)
    @given(requests(["", "/static/page.js", *paths]))
    def answers(sent: Sent) -> None:
        before = written(emptied)
        status, text = client.send(sent)
        tried[f"requests to the page, {RELEASE}"] += 1
        answered[status] += 1
        assert status < 500, (status, sent)
        assert not SECRETS.search(text), (sent, text)
        after = written(emptied)
        assert after == before or (sent.may_write and status == 200), sent
        if after != before:
            emptied.execute(RESTORE)

    answers()
    assert answered.keys() >= {200, 400, 401, 403, 404, 405}, answered
    logged = "".join(log.read_text(encoding="utf-8", errors="replace") for log in web.home.glob("api-server-*.log"))
    assert "Traceback" not in logged, logged[-4_000:]


@pytest.mark.usefixtures("emptied")
@pytest.mark.parametrize("who", [NOBODY, "forged"])
def test_of_a_bad_large_request_only_the_beginning_is_read(served: Served, who: str) -> None:
    client = Client(served[0], {"forged": FORGED}, {"forged": "forged"})
    for size, answered in ((60_000, {401, 403}), (2_000_000, {413})):
        body = b'{"dag_run_ids": [1]}'.ljust(size)
        sent = Sent("POST", "/dagbump/bump", who, who, {"Content-Type": b"application/json"}, body)
        assert client.send(sent)[0] in answered


def written(fleet: Fleet) -> Any:
    """Return what differs after a bump, or after an entry in Airflow's audit log."""
    audited = fleet.execute("SELECT count(*) FROM {schema}.log WHERE event = 'dagbump_bump'").fetchone()
    return bad_input.written(fleet.connection), audited
