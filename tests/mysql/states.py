"""What a borrower can do to a connection, and how the next one would notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pymysql
import pytest
from pymysql.cursors import DictCursor, SSCursor

from tests.mysql.conftest import rows, value
from tests.servers import MariaDBServer


@dataclass
class Scene:
    """Two loans in a row, and a server to ask behind their back."""

    server: MariaDBServer
    table: str


@dataclass
class State:
    """One thing that may pass from a borrower to the next.

    :param soil: what the first borrower does, and returns for the second to use.
    :param look: what the second one sees, compared with a first look.
    """

    name: str
    soil: Callable[[Any, Scene], Any]
    look: Callable[[Any, Scene, Any], Any]


def run(conn: Any, *statements: str) -> None:
    for statement in statements:
        rows(conn, statement)


def sql(*statements: str) -> Callable[[Any, Scene], None]:
    return lambda conn, scene: run(
        conn,
        *(
            each.format(table=scene.table, database=scene.server.database)
            for each in statements
        ),
    )


def failing(statement: str) -> Callable[[Any, Scene], None]:
    """What a statement has done before it failed."""

    def soil(conn: Any, scene: Scene) -> None:
        with pytest.raises(pymysql.MySQLError):
            sql(statement)(conn, scene)

    return soil


def seen(question: str) -> Callable[[Any, Scene, Any], Any]:
    return lambda conn, scene, left: value(conn, question)


def answer(conn: Any, statement: str) -> Any:
    """The rows, or the number of the error."""
    try:
        return rows(conn, statement)
    except pymysql.MySQLError as error:
        return error.args[0]


def is_locked(conn: Any, scene: Scene, left: Any) -> bool:
    try:
        scene.server.ask(f"SELECT i FROM {scene.table} WHERE i=1 FOR UPDATE NOWAIT")
    except pymysql.OperationalError as error:
        return bool(error.args[0] == 1205)
    return False


def sees_old_value(conn: Any, scene: Scene, left: Any) -> bool:
    if left is None:
        return False
    scene.server.ask(f"UPDATE {scene.table} SET v=v+1 WHERE i=1")
    return bool(value(conn, f"SELECT v FROM {scene.table} WHERE i=1") == left)


def read(conn: Any, scene: Scene) -> Any:
    rows(conn, "START TRANSACTION WITH CONSISTENT SNAPSHOT")
    return value(conn, f"SELECT v FROM {scene.table} WHERE i=1")


def is_blocked(conn: Any, scene: Scene, left: Any) -> bool:
    """Whether nobody else can write to the table."""
    # The server executes a reset that was sent before, which others do not wait for.
    conn.ping(reconnect=False)
    try:
        scene.server.ask(
            "SET STATEMENT lock_wait_timeout=0 FOR "
            f"ALTER TABLE {scene.table} COMMENT ''"
        )
    except pymysql.OperationalError as error:
        return bool(error.args[0] == 1205)
    return False


def one_shot(conn: Any, scene: Scene, left: Any) -> Any:
    conn.begin()
    try:
        return answer(conn, f"DELETE FROM {scene.table} WHERE i=99")
    finally:
        conn.rollback()


def stream(conn: Any, scene: Scene) -> Any:
    cursor = conn.cursor(SSCursor)
    cursor.execute("SELECT seq FROM seq_1_to_1000")
    return cursor.fetchone() and cursor


def many(conn: Any, scene: Scene) -> Any:
    cursor = conn.cursor()
    cursor.execute(f"CALL {scene.server.database}.two_results()")
    return cursor


def change_cursors(conn: Any, scene: Scene) -> None:
    conn.cursorclass = DictCursor


def change_time_limits(conn: Any, scene: Scene) -> None:
    conn._read_timeout = 99.0


def replace_encoders(conn: Any, scene: Scene) -> None:
    conn.encoders = {**conn.encoders, int: lambda value, mapping: "77"}


def change_decoders(conn: Any, scene: Scene) -> None:
    conn.decoders[pymysql.constants.FIELD_TYPE.LONGLONG] = lambda text: "changed"


def stale(conn: Any, scene: Scene, left: Any) -> Any:
    if left is None:
        return 0
    try:
        left.execute("SELECT 1")
    except pymysql.ProgrammingError:
        return 0
    return left.fetchone()[0]


#: Like the table of the state's names in the documentation.
STATES = [
    State("transaction", sql("BEGIN", "UPDATE {table} SET v=7 WHERE i=1"), is_locked),
    State("read view", read, sees_old_value),
    State("autocommit by SQL", sql("SET autocommit = NOT @@autocommit"),
          seen("SELECT @@autocommit")),
    State("autocommit by method", lambda conn, scene: conn.autocommit(
        not conn.get_autocommit()), seen("SELECT @@autocommit")),
    State("isolation level",
          sql("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
          seen("SELECT @@tx_isolation")),
    State("read only session", sql("SET SESSION TRANSACTION READ ONLY"),
          seen("SELECT @@tx_read_only")),
    State("next transaction", sql("SET TRANSACTION READ ONLY"), one_shot),
    State("time zone", sql("SET time_zone='+05:00'"), seen("SELECT @@time_zone")),
    State("SQL mode", sql("SET sql_mode='ANSI'"), seen("SELECT @@sql_mode")),
    State("foreign key checks", sql("SET foreign_key_checks=0"),
          seen("SELECT @@foreign_key_checks")),
    State("select limit", sql("SET sql_select_limit=3"),
          seen("SELECT @@sql_select_limit")),
    State("statement time", sql("SET max_statement_time=9"),
          seen("SELECT @@max_statement_time")),
    State("user variable", sql("SET @secret='s'"), seen("SELECT @secret")),
    State("temporary table", sql("CREATE TEMPORARY TABLE tmp_secret (i INT)"),
          lambda conn, scene, left: answer(conn, "SELECT * FROM tmp_secret")),
    State("named lock", sql("SELECT GET_LOCK('secret', 0)"), lambda conn, scene, left:
          scene.server.ask("SELECT IS_FREE_LOCK('secret')")),
    State("table lock", sql("LOCK TABLES {table} WRITE"), is_blocked),
    State("global read lock", sql("FLUSH TABLES WITH READ LOCK"), is_blocked),
    State("prepared statement", sql("PREPARE secret FROM 'SELECT 1'"),
          lambda conn, scene, left: answer(conn, "EXECUTE secret")),
    State("handler", sql("HANDLER {table} OPEN AS secret"),
          lambda conn, scene, left: answer(conn, "HANDLER secret READ FIRST")),
    State("database by USE", sql("USE mysql"), seen("SELECT DATABASE()")),
    State("database by method", lambda conn, scene: conn.select_db("mysql"),
          seen("SELECT DATABASE()")),
    State("SET NAMES", sql("SET NAMES latin1"),
          seen("SELECT @@character_set_client")),
    State("character set by method",
          lambda conn, scene: conn.set_character_set("latin1"),
          lambda conn, scene, left: (value(conn, "SELECT @@character_set_client"),
                                     conn.charset, conn.encoding)),
    State("role", sql("SET ROLE secret_role"), seen("SELECT CURRENT_ROLE()")),
    State("last insert id", sql("SELECT LAST_INSERT_ID(77)"),
          seen("SELECT LAST_INSERT_ID()")),
    State("XA transaction", sql("XA START 'secret'",
                                "UPDATE {table} SET v=8 WHERE i=1"), is_locked),
    State("unread rows", stream, seen("SELECT 1")),
    State("unread results", many, seen("SELECT 1")),
    State("cursor class", change_cursors, lambda conn, scene, left: conn.cursorclass),
    State("time limits", change_time_limits,
          lambda conn, scene, left: conn._read_timeout),
    State("decoders", change_decoders, seen("SELECT 5000000000")),
    State("encoders", replace_encoders,
          lambda conn, scene, left: value(conn, "SELECT %s", 5)),
    State("stale cursor", lambda conn, scene: conn.cursor(), stale),
    State("user variable of a SELECT", sql("SELECT @secret := 1"),
          seen("SELECT @secret")),
    State("user variable by INTO", sql("SELECT 1 INTO @secret"),
          seen("SELECT @secret")),
    State("lock by DO", sql("DO GET_LOCK('secret', 0)"), lambda conn, scene, left:
          scene.server.ask("SELECT IS_FREE_LOCK('secret')")),
    State("procedure that fails", failing("CALL {database}.sets_and_fails()"),
          seen("SELECT @@time_zone")),
    State("statement that fails", failing("SELECT * FROM {database}.no_such"),
          seen("SELECT 1")),
    State("function that sets", sql("SELECT {database}.setting()"),
          seen("SELECT @secret")),
    State("function that locks", sql("SELECT {database}.locking()"),
          lambda conn, scene, left: scene.server.ask("SELECT IS_FREE_LOCK('secret')")),
    State("function with a built-in name", sql("SELECT {database}.sum (1)"),
          seen("SELECT @secret")),
    State("id of an INSERT", sql("INSERT INTO {database}.ids (v) VALUES (1)"),
          seen("SELECT LAST_INSERT_ID()")),
    State("id of a RETURNING",
          sql("INSERT INTO {database}.ids (v) VALUES (1) RETURNING id"),
          seen("SELECT LAST_INSERT_ID()")),
    State("sequence", sql("SELECT NEXT VALUE FOR {database}.numbered"),
          lambda conn, scene, left: answer(
              conn, f"SELECT PREVIOUS VALUE FOR {scene.server.database}.numbered")),
    State("EXECUTE IMMEDIATE", sql("EXECUTE IMMEDIATE 'SET @secret=1'"),
          seen("SELECT @secret")),
    State("several statements in one", sql("BEGIN NOT ATOMIC SET @secret=1; END"),
          seen("SELECT @secret")),
    State("comment that is SQL", sql("SELECT 1 /*! INTO @secret */"),
          seen("SELECT @secret")),
]  # fmt: skip

#: What code does that the text of a statement does not show: each state with what makes
#: the code. With it a pool trusts fewer statements.
HIDDEN = [
    (State("view that locks", sql("SELECT * FROM {database}.hidden"),
           lambda conn, scene, left: scene.server.ask("SELECT IS_FREE_LOCK('secret')")),
     "CREATE OR REPLACE VIEW {database}.hidden AS SELECT {database}.locking() AS l",
     "DROP VIEW {database}.hidden"),
    (State("view that sets", sql("SELECT * FROM {database}.hidden"),
           seen("SELECT @secret")),
     "CREATE OR REPLACE VIEW {database}.hidden AS SELECT {database}.setting() AS l",
     "DROP VIEW {database}.hidden"),
    (State("view of a built-in lock", sql("SELECT * FROM {database}.hidden"),
           lambda conn, scene, left: scene.server.ask("SELECT IS_FREE_LOCK('secret')")),
     "CREATE OR REPLACE VIEW {database}.hidden AS SELECT GET_LOCK('secret', 0) AS l",
     "DROP VIEW {database}.hidden"),
    (State("trigger that locks", sql("UPDATE {database}.ids SET v=2"),
           lambda conn, scene, left: scene.server.ask("SELECT IS_FREE_LOCK('secret')")),
     "CREATE OR REPLACE TRIGGER {database}.hidden BEFORE UPDATE ON {database}.ids "
     "FOR EACH ROW SET NEW.v = GET_LOCK('secret', 0)",
     "DROP TRIGGER {database}.hidden"),
    (State("trigger that sets", sql("UPDATE {database}.ids SET v=2"),
           seen("SELECT @secret")),
     "CREATE OR REPLACE TRIGGER {database}.hidden BEFORE UPDATE ON {database}.ids "
     "FOR EACH ROW SELECT 1 INTO @secret",
     "DROP TRIGGER {database}.hidden"),
    (State("default of a sequence", sql("INSERT INTO {database}.hidden (v) VALUES (1)"),
           lambda conn, scene, left: answer(
               conn, f"SELECT PREVIOUS VALUE FOR {scene.server.database}.numbered")),
     "CREATE OR REPLACE TABLE {database}.hidden "
     "(v INT, n INT DEFAULT (NEXT VALUE FOR {database}.numbered))",
     "DROP TABLE {database}.hidden"),
]  # fmt: skip


def by_name() -> Iterator[tuple[str, State]]:
    for state in STATES:
        yield state.name, state
