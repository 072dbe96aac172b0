"""What one borrower leaves to the next: all of it, in each mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from geventpool.mysql.reset import STREAK
from geventpool.testing import wait_until
from tests.mysql.conftest import rows
from tests.mysql.states import HIDDEN, STATES, Scene, State
from tests.servers import MariaDBServer

#: Never left to anybody, in whatever mode: what a pool ends itself.
ALWAYS = {"unread rows", "unread results", "stale cursor", "statement that fails"}

#: Of the connection object, not of the server's session.
ATTRIBUTES = {"cursor class", "time limits", "decoders", "encoders"}

#: What a ROLLBACK ends besides.
ROLLED_BACK = ALWAYS | {
    *("transaction", "read view", "next transaction", "XA transaction"),
    *ATTRIBUTES,
}

EVERYTHING = {state.name for state in STATES}


def rollback(conn):
    """A clean-up of the user's own."""
    conn.rollback()


#: What may be called, in the database of the tests.
CODE = [
    "CREATE FUNCTION {database}.setting() RETURNS INT BEGIN SELECT 5 INTO @secret; "
    "RETURN 1; END",
    "CREATE FUNCTION {database}.locking() RETURNS INT RETURN GET_LOCK('secret', 0)",
    "CREATE FUNCTION {database}.sum(x INT) RETURNS INT BEGIN SET @secret=1; "
    "RETURN x; END",
    "CREATE PROCEDURE {database}.sets_and_fails() BEGIN "
    "SET SESSION time_zone='+09:00'; SIGNAL SQLSTATE '45000'; END",
    "CREATE TABLE {database}.ids (id INT AUTO_INCREMENT PRIMARY KEY, v INT)",
    "CREATE SEQUENCE {database}.numbered",
]

#: Mode to what is clean afterwards.
CLEAN = {
    "session": EVERYTHING,
    "rollback": ROLLED_BACK,
    None: ALWAYS,
    rollback: ROLLED_BACK - ATTRIBUTES,
}


@pytest.fixture(scope="module")
def scene(mariadb_server: MariaDBServer) -> Iterator[Scene]:
    """A table with one row, a role, a procedure with two results."""
    server = mariadb_server
    name = f"{server.database}.states"
    server.ask(f"CREATE TABLE {name} (i INT PRIMARY KEY, v INT) ENGINE=InnoDB")
    server.ask(f"INSERT INTO {name} VALUES (1, 1)")
    server.ask("CREATE ROLE secret_role WITH ADMIN root@localhost")
    server.ask(
        f"CREATE PROCEDURE {server.database}.two_results() BEGIN "
        "SELECT 1; SELECT 2; END"
    )
    for statement in CODE:
        server.ask(statement.format(database=server.database))
    yield Scene(server, name)
    for statement in reversed(CODE):
        kind, what = statement.split("{database}.")[0], statement.split()[2]
        what = what.partition("(")[0].format(database=server.database)
        server.ask(f"DROP {kind.split()[1]} {what}")
    server.ask(f"DROP PROCEDURE {server.database}.two_results")
    server.ask("DROP ROLE secret_role")
    server.ask(f"DROP TABLE {name}")


def is_clean(make_pool, scene: Scene, state: State, resets: int = 0, **options) -> bool:
    """Whether the second borrower finds what a first one does.

    :param resets: how often the pool has reset the connection before. With 1 it knows
        its server, after some more it expects each loan to change the session.
    """
    pool = make_pool(
        unix_socket=scene.server.unix_socket,
        user="root",
        password="",
        database=scene.server.database,
        max_connections=1,
        **options,
    )
    conn = pool.acquire()
    first = state.look(conn, scene, None)
    pool.drop(conn)
    conn = pool.acquire()
    for _ in range(resets):
        rows(conn, "SELECT @worn := 1")
        pool.release(conn)
        conn = pool.acquire()
    left = state.soil(conn, scene)
    pool.release(conn)
    conn = pool.acquire()
    second = state.look(conn, scene, left)
    session = conn.thread_id()
    pool.drop(conn)
    # What it holds it holds until the server has noticed.
    wait_until(lambda: not is_known(scene.server, session), "session ended")
    return bool(first == second)


def is_known(server: MariaDBServer, session: int) -> bool:
    """Whether the server still has this session."""
    sessions = server.ask("SELECT id FROM information_schema.processlist")
    return (session,) in sessions


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "manual"])
@pytest.mark.parametrize("mode", CLEAN, ids=["session", "rollback", "none", "callable"])
def test_what_a_mode_cleans(make_pool, scene, state, autocommit, mode):
    """Each mode ends exactly the states that it is said to end."""
    clean = is_clean(make_pool, scene, state, autocommit=autocommit, reset=mode)
    assert clean == (state.name in CLEAN[mode])


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "manual"])
def test_the_default_cleans_everything_when_it_knows_its_server(
    make_pool, scene, state, autocommit
):
    """Then it sends the reset ahead, or nothing if nothing was left."""
    assert is_clean(make_pool, scene, state, resets=1, autocommit=autocommit)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
@pytest.mark.parametrize("autocommit", [True, None], ids=["autocommit", "server's"])
def test_a_reset_without_settings_cleans_everything(
    make_pool, scene, state, autocommit
):
    """The reset before was one already, so the server reports no changes."""
    assert is_clean(make_pool, scene, state, resets=STREAK + 2, autocommit=autocommit)


@pytest.mark.parametrize("hidden", HIDDEN, ids=lambda hidden: hidden[0].name)
@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "manual"])
def test_what_hidden_code_leaves_is_cleaned(make_pool, scene, hidden, autocommit):
    """No text of a statement shows it, and the server reports it in part only."""
    state, create, drop = hidden
    scene.server.ask(create.format(database=scene.server.database))
    try:
        assert is_clean(make_pool, scene, state, resets=1, autocommit=autocommit)
    finally:
        scene.server.ask(drop.format(database=scene.server.database))


def test_the_default_is_the_mode_that_cleans_everything(make_pool, scene):
    """Nobody has to know about states to be safe from them."""
    states = {state.name: state for state in STATES}
    for name in ("user variable", "temporary table", "role"):
        assert is_clean(make_pool, scene, states[name])
