"""MySQL, as its documentation and source tell: what is not as with MariaDB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from geventpool.mysql.statements import MYSQL, Kind, family
from tests import parts
from tests.mysql.conftest import rows
from tests.mysql.mysql84 import PASSWORD, MySQL84
from tests.mysql.test_reset import use
from tests.peers import tls_contexts

#: COM_RESET_CONNECTION.
RESET = b"\x1f"


@pytest.fixture()
def mysql() -> Iterator[MySQL84]:
    """A server that speaks as MySQL 8.4 does."""
    with MySQL84() as server:
        yield server


@pytest.fixture()
def pool(mysql, make_pool):
    """A pool of one of its connections, which has been cleaned once."""
    pool = make_pool(**mysql.client_options, max_connections=1, autocommit=True)
    use(pool, "SET @used=1")
    mysql.said.clear()
    return pool


def test_the_switch_of_the_reports_is_the_first_setting(pool, mysql):
    """As the last it would forget that the others were reported."""
    (conn,) = pool.idle_connections()
    assert conn.can_track and conn.tracks
    with pool.connection():
        rows(conn, "SET @used=1")
    use(pool, "SET @used=1")
    assert mysql.said[1] == [
        RESET,
        b"\x03SET session_track_state_change=1, NAMES utf8mb4, autocommit=1",
    ]


def test_a_loan_that_has_left_nothing_is_not_reset(pool, mysql):
    """After a look at views and triggers, within a time that MySQL understands."""
    assert parts.kinds_of_resets(pool) == frozenset(Kind)
    for statement in ("SELECT 1", "UPDATE t SET v = 1"):
        with pool.connection() as conn:
            rows(conn, statement)
    assert mysql.said == [[b"\x03SELECT 1"], [b"\x03UPDATE t SET v = 1"]]
    assert conn.functions == MYSQL == family("8.4.3")


def test_a_change_that_a_select_has_made_is_told_by_the_next_answer(mysql, make_pool):
    """The packet that ends its result has no room for it."""
    pool = make_pool(**mysql.client_options, max_connections=1, autocommit=False)
    use(pool, "SET @used=1")
    mysql.hidden.add(b"SELECT * FROM v")
    mysql.said.clear()
    with pool.connection() as conn:
        rows(conn, "SELECT * FROM v")
    assert conn.pending
    use(pool, "SET @used=1")
    said = [message[0] for message in mysql.said]
    assert said[:3] == [b"\x03SELECT * FROM v", b"\x03COMMIT", RESET]


def test_a_result_tells_whether_a_transaction_is_open(mysql, make_pool):
    """In its end; so what was read only is committed, and nothing is sent twice."""
    pool = make_pool(**mysql.client_options, max_connections=1, autocommit=False)
    use(pool, "SET @used=1")
    mysql.said.clear()
    with pool.connection() as conn:
        rows(conn, "SELECT v FROM t")
        assert conn.may_hold_transaction
    assert mysql.said == [[b"\x03SELECT v FROM t"], [b"\x03COMMIT"]]
    assert not conn.may_hold_transaction


def test_without_tls_a_password_is_sent_encrypted(make_pool):
    """To a server that has it in no cache; the extra brings what that takes."""
    with MySQL84(remembers=False) as server:
        pool = make_pool(**server.client_options)
        with pool.connection() as conn:
            assert rows(conn, "SELECT 1") == [("1",)]
        assert server.passwords == [PASSWORD + b"\0"]
        pool.close()


@pytest.mark.parametrize("remembers", [True, False])
def test_over_tls_a_password_is_sent_as_it_is(make_pool, remembers):
    """To a server that has it in no cache; no key is asked for."""
    context, client = tls_contexts()
    with MySQL84(remembers=remembers, tls=context) as server:
        pool = make_pool(**server.client_options, ssl=client)
        with pool.connection() as conn:
            assert rows(conn, "SELECT 1") == [("1",)]
        assert server.passwords == ([] if remembers else [PASSWORD + b"\0"])
        assert server.said[0][0].startswith(b"\x03SET ")
        pool.close()
