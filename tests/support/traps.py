"""A database full of traps: operators, functions, casts and types that a stranger may create, and that raise when used.

PostgreSQL takes an operator or a function whose types match exactly, wherever on the search path it stands, before one
in pg_catalog that takes a cast. So what dagbump calls has to match exactly in pg_catalog, or to be qualified. The traps
stand in Airflow's schema, where PUBLIC may create up to PostgreSQL 14, and in the schema ``hostile``, which is for the
path of a caller: put before pg_catalog, what stands there comes before pg_catalog's own.

There, a statement of a test's springs traps too: what it needs has to be made before, and the rest to be qualified.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from dagbump.database import create_engine
from dagbump.installation import installer
from psycopg import sql
from sqlalchemy.engine import URL
from typing_extensions import LiteralString

from support.fleet import Fleet, serialized_dag
from support.server import Server, libpq

SPRUNG = "a trap was sprung"
OWNER, OPERATOR = "dagbump_trapped_owner", "dagbump_trapped_operator"

# The types that the functions compare, calculate with, or look up.
TYPES = (
    *("int2", "int4", "int8", "float8", "numeric", "bool", "text", "varchar", "name", '"char"', "uuid", "json"),
    *("jsonb", "jsonpath", "timestamptz", "timestamp", "date", "interval", "tid", "xid", "xid8", "oid", "regclass"),
    *(
        "regtype",
        "regprocedure",
        "regnamespace",
        "int2vector",
        "oidvector",
        "int2[]",
        "int4[]",
        "int8[]",
        "text[]",
        "uuid[]",
    ),
    *("oid[]", "tid[]", "timestamptz[]"),
)
OPERATORS = (
    *("=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "^", "&", "|", "||", "&&", "@>", "<@", "~", "!~", "~*"),
    *("~~", "!~~", "~~*", "->", "->>", "#>", "#>>", "?", "@?", "@@"),
)

_TRAPS: LiteralString = """
SET search_path = pg_catalog;
CREATE SCHEMA hostile;
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
CREATE FUNCTION hostile.sprung() RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION {sprung}, CURRENT_USER; END $$;
CREATE TYPE hostile.chameleon AS ENUM ('any');

DO $operators$
DECLARE
    one text;
    other text;
    body CONSTANT text := 'RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN hostile.sprung(); END $$';
BEGIN
    FOREACH one IN ARRAY {types} || ARRAY['hostile.chameleon'] LOOP
        FOREACH other IN ARRAY {types} || ARRAY['hostile.chameleon'] LOOP
            EXECUTE format('CREATE FUNCTION hostile.trap(%s, %s) %s', one, other, body) || (
                -- Where pg_catalog has an exact match, a trap can only come before it on the path.
                SELECT string_agg(format(
                    '; CREATE OPERATOR %s.%s (FUNCTION = hostile.trap, LEFTARG = %s, RIGHTARG = %s)',
                    CASE WHEN exact.oid IS NULL THEN 'public' ELSE 'hostile' END, operator.name, one, other
                ), '')
                FROM unnest({operators}) AS operator (name)
                LEFT JOIN pg_operator AS exact
                    ON (exact.oprname, exact.oprleft, exact.oprright) = (operator.name, one::regtype, other::regtype)
                    AND exact.oprnamespace = 'pg_catalog'::regnamespace
            );
        END LOOP;
    END LOOP;
END
$operators$;

DO $functions$
BEGIN
    EXECUTE (
        WITH used AS (
            -- Each that a function of dagbump calls.
            SELECT DISTINCT called.name
            FROM pg_proc AS ours
            CROSS JOIN regexp_matches(ours.prosrc, '([a-z_0-9]+)\\s*\\(', 'g') AS match
            CROSS JOIN LATERAL (SELECT match[1] AS name) AS called
            WHERE ours.pronamespace = 'dagbump'::regnamespace
            AND EXISTS (
                SELECT FROM pg_proc AS theirs
                WHERE theirs.pronamespace = 'pg_catalog'::regnamespace AND theirs.proname = called.name
            )
        ),

        signature (arguments) AS (
            SELECT ''
            UNION SELECT type FROM unnest({types}) AS one (type)
            UNION SELECT format('%s, %s', type, type) FROM unnest({types}) AS one (type)
            UNION SELECT format('%s, %s', type, left(type, -2)) FROM unnest({types}) AS one (type) WHERE type LIKE '%[]'
        )

        SELECT string_agg(format(
            'CREATE FUNCTION %s.%I(%s) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN hostile.sprung(); END $$',
            schema, used.name, signature.arguments
        ), '; ')
        FROM used
        CROSS JOIN signature
        CROSS JOIN unnest(ARRAY['hostile', 'public']) AS schema
    );
END
$functions$;

-- One may be made into the type that all operators above are traps for.
DO $casts$
BEGIN
    EXECUTE (
        SELECT string_agg(format(
            'CREATE FUNCTION hostile.chameleon(%1$s) RETURNS hostile.chameleon LANGUAGE plpgsql AS '
            '$$ BEGIN PERFORM hostile.sprung(); END $$; '
            'CREATE CAST (%1$s AS hostile.chameleon) WITH FUNCTION hostile.chameleon(%1$s) AS IMPLICIT', type
        ), '; ')
        FROM unnest({types}) AS one (type)
    );
END
$casts$;

-- To make a value of such a type is a trap.
DO $types$
BEGIN
    EXECUTE (
        SELECT string_agg(format(
            'CREATE DOMAIN hostile.%s AS pg_catalog.%s CHECK (hostile.sprung())', type, replace(type, 'record', 'text')
        ), '; ')
        FROM unnest({types} || ARRAY['record']) AS one (type)
        WHERE type NOT LIKE '%[]'
    );
END
$types$;
RESET search_path;
"""


@contextmanager
def roles(server: Server, *names: str) -> Iterator[None]:
    """Make roles that may log in; drop them when their database is gone."""
    with server.maintenance() as connection:
        for role in names:
            name = sql.Identifier(role)
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(name))
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(name))
        yield
        for role in names:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def as_role(url: URL, role: str) -> URL:
    """Return the address at which one of them logs in."""
    return url.set(username=role, password="secret")  # noqa: S106


def give_to_owner(url: URL, role: str) -> None:
    """Let the tables of a database of Airflow's belong to a role, which may install dagbump."""
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        owner, database = sql.Identifier(role), sql.Identifier(connection.info.dbname)
        grant = "GRANT ALL ON SCHEMA public TO {0}; GRANT CREATE ON DATABASE {1} TO {0}"
        connection.execute(sql.SQL(grant).format(owner, database))
        tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        for (table,) in connection.execute(tables).fetchall():
            connection.execute(sql.SQL("ALTER TABLE public.{} OWNER TO {}").format(sql.Identifier(table), owner))


def build(url: URL) -> None:
    """Put the traps into a database with Airflow's tables."""
    give_to_owner(url, OWNER)
    installer.upgrade(create_engine(libpq(as_role(url, OWNER))))
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        connection.execute("SELECT dagbump.grant_operator(%s)", (OPERATOR,))
        _make_runs(Fleet(connection))
        set_traps(connection)


def _make_runs(fleet: Fleet) -> None:
    """Make runs in all states that the functions tell apart, those of DAG d to be moved."""
    d = fleet.dag("d", versions=3)
    for version in d:
        data = serialized_dag(["a", "b", "gone"])
        data["dag"] |= {"start_date": 0.0, "end_date": 4e9, "task_group": {"is_mapped": True}}
        fleet.serialize(version, data)
    landed, unverified, pinned = (
        fleet.run("d", "landed", logical_date="2024-01-01T00:00:00Z"),
        fleet.run("d", "unverified"),
        fleet.run("d", "pinned", bundle_version="pin", created_dag_version_id=d[0]),
    )
    for run, version in ((landed, d[2]), (unverified, d[0]), (pinned, d[0])):
        fleet.ti(run, version, "success", task_id="a")
        fleet.ti(run, d[0], "queued", task_id="b", map_index=0)
        fleet.past_try(fleet.ti(run, None, None, task_id="b", map_index=1), d[1])
        fleet.ti(run, d[1], "removed", task_id="gone")
    fleet.backfill({landed: 1})
    for dag_id, is_paused in (("paused", True), ("no_version", False)):
        fleet.dag(dag_id, is_paused=is_paused)
        fleet.ti(fleet.run(dag_id), None, "running")


def set_traps(connection: psycopg.Connection[Any]) -> None:
    """Set them, in seconds."""
    connection.execute(
        sql.SQL(_TRAPS).format(
            sprung=sql.Literal(f"{SPRUNG}, as %"),
            types=sql.SQL("{}::text[]").format(list(TYPES)),
            operators=sql.SQL("{}::text[]").format(list(OPERATORS)),
        )
    )
