"""Operators that pg_catalog lacks, in Airflow's schema, as any role that may create objects there could make them."""

from __future__ import annotations

from typing import Any

import psycopg

_TYPES = (
    *("int2", "int4", "int8", "float8", "numeric", "text", "varchar", "bpchar", "name", '"char"', "bool", "uuid"),
    *("oid", "regclass", "regproc", "regprocedure", "regnamespace", "regtype", "regrole", "xid", "json", "jsonb"),
    *("timestamptz", "timestamp", "interval", "text[]", "varchar[]", "name[]", "int2[]", "int4[]", "int8[]", "oid[]"),
    *("oidvector", "int2vector"),
)
_OPERATORS = {
    "boolean": ("=", "<>", "<", "<=", ">", ">=", "@>", "~", "!~", "~~", "!~~"),
    "text": ("||", "->>", "#>>"),
    "int8": ("+", "-", "*", "/", "%", "&", "|", "<<", "->", "#>"),
}
_SET = """
    DO $do$
    DECLARE
        pair record;
    BEGIN
        FOR pair IN
            SELECT operator.name, operator.answer, a.type AS a, b.type AS b
            FROM unnest(%(operators)s::text[], %(answers)s::text[]) AS operator (name, answer)
            CROSS JOIN unnest(%(types)s::text[]) AS a (type)
            CROSS JOIN unnest(%(types)s::text[]) AS b (type)
            WHERE NOT EXISTS (
                SELECT FROM pg_operator WHERE oprname = operator.name
                AND oprleft = a.type::regtype AND oprright = b.type::regtype
            )
        LOOP
            EXECUTE format(
                'CREATE OR REPLACE FUNCTION public.%%1$I(a %%2$s, b %%3$s) RETURNS %%4$s LANGUAGE plpgsql AS '
                '$$ BEGIN PERFORM pg_catalog.nextval(''public.trapped''); RAISE EXCEPTION ''trapped''; END $$',
                'trap_' || pair.answer, pair.a, pair.b, pair.answer
            );
            EXECUTE format(
                'CREATE OPERATOR public.%%s (LEFTARG = %%s, RIGHTARG = %%s, FUNCTION = public.%%I)',
                pair.name, pair.a, pair.b, 'trap_' || pair.answer
            );
        END LOOP;
    END
    $do$
"""


def set_traps(stranger: psycopg.Connection[Any]) -> None:
    """Make operators for all pairs of types that have none. Each operator counts its calls, and fails."""
    stranger.execute("CREATE SEQUENCE public.trapped; GRANT USAGE ON SEQUENCE public.trapped TO PUBLIC")
    names = [(name, answer) for answer, names in _OPERATORS.items() for name in names]
    arguments = {
        "operators": [name for name, _ in names],
        "answers": [answer for _, answer in names],
        "types": list(_TYPES),
    }
    with psycopg.ClientCursor(stranger) as cursor:
        cursor.execute(_SET, arguments)


def anybody_trapped(connection: psycopg.Connection[Any]) -> bool:
    """Say whether one of them has been run, by whomever; a ROLLBACK does not hide it."""
    return connection.execute("SELECT is_called FROM public.trapped").fetchone() == (True,)
