"""Lists the contents of a schema, to compare databases that were made in different ways."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import psycopg
from psycopg import sql

# One row per thing: its table (or itself, where it is of none), and all that makes it different from another.
_THINGS = """
    SELECT class.relname, 'column ' || attribute.attname || ' ' || format_type(attribute.atttypid, attribute.atttypmod)
        || CASE WHEN attribute.attnotnull THEN ' NOT NULL' ELSE '' END
        || coalesce(' DEFAULT ' || pg_get_expr(def.adbin, def.adrelid), '')
    FROM pg_class AS class
    JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid AND attribute.attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef AS def ON (def.adrelid, def.adnum) = (attribute.attrelid, attribute.attnum)
    WHERE class.relnamespace = to_regnamespace(%(schema)s) AND class.relkind IN ('r', 'p', 'v', 'm')
    UNION ALL
    SELECT index.indrelid::regclass::text, pg_get_indexdef(index.indexrelid)
    FROM pg_index AS index
    JOIN pg_class AS class ON class.oid = index.indexrelid
    WHERE class.relnamespace = to_regnamespace(%(schema)s)
    UNION ALL
    SELECT con.conrelid::regclass::text, 'constraint ' || con.conname || ' ' || pg_get_constraintdef(con.oid)
    FROM pg_constraint AS con
    WHERE con.connamespace = to_regnamespace(%(schema)s)
    UNION ALL
    SELECT trigger.tgrelid::regclass::text, pg_get_triggerdef(trigger.oid)
    FROM pg_trigger AS trigger
    JOIN pg_class AS class ON class.oid = trigger.tgrelid
    WHERE class.relnamespace = to_regnamespace(%(schema)s) AND NOT trigger.tgisinternal
    UNION ALL
    SELECT class.relname, 'relkind ' || class.relkind::text
    FROM pg_class AS class
    WHERE class.relnamespace = to_regnamespace(%(schema)s) AND class.relkind <> 'i'
    UNION ALL
    SELECT proc.oid::regprocedure::text, 'function ' || md5(proc.prosrc)
    FROM pg_proc AS proc
    WHERE proc.pronamespace = to_regnamespace(%(schema)s)
    UNION ALL
    SELECT type.typname, 'type ' || type.typtype::text
    FROM pg_type AS type
    WHERE type.typnamespace = to_regnamespace(%(schema)s) AND type.typtype IN ('e', 'd')
"""
# `airflow db clean` puts the time into the names of its archives; from 3.4 on, random digits.
_STAMP = re.compile(r"(?<=_)(?:\d{14}|[0-9a-f]{16})(?![0-9a-z])")


def things(connection: psycopg.Connection[Any], schema: str = "public") -> dict[str, set[str]]:
    """Return all that there is in a schema, by table."""
    found: dict[str, set[str]] = {}
    for table, thing in connection.execute(_THINGS, {"schema": schema}):
        found.setdefault(_unstamped(table), set()).add(_unstamped(thing))
    return found


def row_counts(connection: psycopg.Connection[Any], schema: str = "public") -> dict[str, int]:
    """Return how many rows each table has."""
    tables = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r'", (schema,)
    ).fetchall()
    counts = Counter[str]()
    for (table,) in tables:
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
        ((rows,),) = connection.execute(query).fetchall()
        counts[_unstamped(table)] += rows
    return counts


def _unstamped(text: str) -> str:
    return _STAMP.sub("…", text)
