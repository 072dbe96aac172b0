"""Views, triggers and defaults: what a statement runs without showing it in its text.

They can call functions, which can change the session. A server reports only some of
these changes: not named locks, not values of sequences, and not variables that a SELECT
sets.
"""

from __future__ import annotations

from pymysql import err
from pymysql.cursors import Cursor

from geventpool.mysql.connection import Connection
from geventpool.mysql.statements import Kind, family, is_harmless_body

__all__ = ["harmless_kinds"]

#: The most views and triggers that are examined, and the server's time limit for it.
_MOST = 1000
_SECONDS = 1

#: Databases with views of the server itself.
_OWN = "('information_schema', 'performance_schema', 'mysql', 'sys')"

_VIEWS = (
    "SELECT view_definition FROM information_schema.views "
    f"WHERE table_schema NOT IN {_OWN} LIMIT {_MOST}"
)
_TRIGGERS = (
    "SELECT action_statement FROM information_schema.triggers "
    f"WHERE trigger_schema NOT IN {_OWN} LIMIT {_MOST}"
)
#: Only an account that may create triggers on a table can see its triggers. An account
#: that reads the server's own tables is also told of the rights of others.
_MINE = (
    "privilege_type='TRIGGER' AND "
    "grantee=CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''')"
)
_RIGHT = f"SELECT 1 FROM information_schema.user_privileges WHERE {_MINE}"
#: The databases that it can use, but not see the triggers of.
_UNSEEN = (
    "SELECT schema_name FROM information_schema.schemata "
    f"WHERE schema_name NOT IN {_OWN} AND NOT EXISTS (SELECT 1 "
    "FROM information_schema.schema_privileges "
    f"WHERE {_MINE} AND schema_name LIKE table_schema) LIMIT 1"
)

#: Only MariaDB has sequences. The next value of one may be the default of a column.
_SEQUENCES = (
    "SELECT 1 FROM information_schema.tables "
    f"WHERE table_schema NOT IN {_OWN} AND table_type='SEQUENCE' LIMIT 1"
)
_DEFAULTS = (
    "SELECT 1 FROM information_schema.columns "
    f"WHERE table_schema NOT IN {_OWN} AND column_default LIKE '%nextval(%' LIMIT 1"
)


def harmless_kinds(conn: Connection) -> frozenset[Kind]:
    """Return the kinds of statements that leave nothing if their text leaves nothing.

    Reading is one of them, unless there is a view that may change the session, or one
    whose text the account cannot see. So is writing, if there is no such trigger
    either, and no column whose default is the next value of a sequence. May switch.

    :return: an empty set if the server could not be asked.
    :raises pymysql.err.MySQLError: the connection was lost.
    """
    try:
        if not _all_harmless(conn, _VIEWS):
            return frozenset({Kind.CONTROL})
        if not _sees_triggers(conn) or not _all_harmless(conn, _TRIGGERS):
            return frozenset({Kind.CONTROL, Kind.READ})
        if _rows(conn, _SEQUENCES) and _rows(conn, _DEFAULTS):
            return frozenset({Kind.CONTROL, Kind.READ})
    except err.MySQLError:
        if not conn.open:
            raise
        return frozenset()
    return frozenset(Kind)


def _sees_triggers(conn: Connection) -> bool:
    return bool(_rows(conn, _RIGHT)) or not _rows(conn, _UNSEEN)


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
