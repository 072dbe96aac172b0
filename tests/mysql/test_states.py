"""What one borrower leaves to the next: all of it, in each mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from geventpool.testing import wait_until
from tests.mysql.states import STATES, Scene, State
from tests.servers import MariaDBServer

#: Never left to anybody, in whatever mode: what a pool ends itself.
ALWAYS = {"unread rows", "unread results", "stale cursor"}

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
    yield Scene(server, name)
    server.ask(f"DROP PROCEDURE {server.database}.two_results")
    server.ask("DROP ROLE secret_role")
    server.ask(f"DROP TABLE {name}")


def is_clean(make_pool, scene: Scene, state: State, **options) -> bool:
    """Whether the second borrower finds what a first one does."""
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


def test_the_default_is_the_mode_that_cleans_everything(make_pool, scene):
    """Nobody has to know about states to be safe from them."""
    states = {state.name: state for state in STATES}
    for name in ("user variable", "temporary table", "role"):
        assert is_clean(make_pool, scene, states[name])
