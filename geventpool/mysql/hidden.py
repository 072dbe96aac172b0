"""Code of a server that a statement may run although its text does not show it.

Views and triggers can call functions. What these do to the session a server reports in
part only: not locks by name, nor variables that a SELECT sets.
"""

from __future__ import annotations

from pymysql import err
from pymysql.cursors import Cursor

from geventpool.mysql.connection import Connection
from geventpool.mysql.statements import Kind, family, is_harmless_body

__all__ = ["harmless_kinds"]

#: So many views and triggers are looked at, and the server works at it for so long.
_MOST = 1000
_SECONDS = 1

#: Whose views are the server's own.
_OWN = "('information_schema', 'performance_schema', 'mysql', 'sys')"

_VIEWS = (
    "SELECT view_definition FROM information_schema.views "
    f"WHERE table_schema NOT IN {_OWN} LIMIT {_MOST}"
)
_TRIGGERS = (
    "SELECT action_statement FROM information_schema.triggers "
    f"WHERE trigger_schema NOT IN {_OWN} LIMIT {_MOST}"
)
#: A trigger is seen only by who may make one on its table.
_RIGHT = (
    "SELECT 1 FROM information_schema.user_privileges WHERE privilege_type='TRIGGER' "
    "UNION SELECT 1 FROM information_schema.schema_privileges "
    "WHERE privilege_type='TRIGGER' AND DATABASE() LIKE table_schema"
)


def harmless_kinds(conn: Connection) -> frozenset[Kind]:
    """The kinds of statements that leave nothing if their text says so.

    Reading is one of them unless there is a view with code of its own, or one whose
    text the account may not see; writing, if there is no such trigger either.
    May switch.

    :return: empty if it could not be found out.
    """
    try:
        if not _all_harmless(conn, _VIEWS):
            return frozenset({Kind.CONTROL})
        if not _rows(conn, _RIGHT) or not _all_harmless(conn, _TRIGGERS):
            return frozenset({Kind.CONTROL, Kind.READ})
    except err.MySQLError:
        return frozenset()
    return frozenset(Kind)


def _all_harmless(conn: Connection, question: str) -> bool:
    functions = family(conn.server_version)
    texts = _rows(conn, question)
    return len(texts) < _MOST and all(
        text and is_harmless_body(text.encode(), functions) for (text,) in texts
    )


def _rows(conn: Connection, question: str) -> list[tuple[str, ...]]:
    if "mariadb" in conn.server_version.lower():
        question = f"SET STATEMENT max_statement_time={_SECONDS} FOR {question}"
    else:
        hint = f"SELECT /*+ MAX_EXECUTION_TIME({_SECONDS}000) */"
        question = question.replace("SELECT", hint, 1)
    with conn.cursor(Cursor) as cursor:
        cursor.execute(question)
        return list(cursor.fetchall())
