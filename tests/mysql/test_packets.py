"""The packets of the protocol, and the columns of results."""

from __future__ import annotations

import gc

import pymysql
import pytest
from pymysql.cursors import SSCursor

from geventpool.mysql import packets, results
from geventpool.mysql.converters import Converters

STATEMENTS = (
    "SELECT 1 AS one",
    "SELECT 1 AS a, -2 AS b, 'text' AS c, NULL AS d, x'00ff' AS e",
    "SELECT JSON_ARRAY(1) AS j, CAST('x' AS BINARY) AS b, 'ä' AS ä",
    "SELECT 1 AS one FROM DUAL WHERE FALSE",
    "SHOW VARIABLES LIKE 'version%'",
    "SELECT " + ", ".join(f"{number} AS c{number}" for number in range(300)),
)


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("options", [{}, {"use_unicode": False}, {"charset": "latin1"}])
def test_columns_are_those_that_pymysql_finds(
    statement, options, make_pool, mariadb_server
):
    """Whether they are parsed or looked up, and on whichever connection."""
    whole = {**mariadb_server.client_options, **options}
    with pymysql.connect(**whole) as plain, plain.cursor() as cursor:
        cursor.execute(statement)
        wanted = cursor.description, cursor.rowcount, cursor.fetchall()
    pool = make_pool(**options)
    for _ in range(2):
        with pool.connection() as one, pool.connection() as other:
            for conn in one, other:
                with conn.cursor() as cursor:
                    cursor.execute(statement)
                    found = cursor.description, cursor.rowcount, cursor.fetchall()
                assert found == wanted


def test_known_columns_are_not_parsed(make_pool):
    """Not on another connection either."""
    pool = make_pool()
    found = []
    for _ in range(2):
        with pool.connection() as one, pool.connection() as other:
            for conn in one, other:
                with conn.cursor() as cursor:
                    cursor.execute("SELECT 1 AS known, 2 AS too")
                    found.append(cursor.description)
    assert all(each is found[0] for each in found)


def test_columns_of_unbuffered_results_are_looked_up_too(make_pool):
    """And the rows after them are read one by one."""
    conn = make_pool().acquire(reclaim=False)
    for _ in range(2):
        with conn.cursor(SSCursor) as cursor:
            cursor.execute("SELECT 1 AS a UNION SELECT 2")
            assert [each[0] for each in cursor.description] == ["a"]
            assert list(cursor) == [(1,), (2,)]


def test_a_converter_that_a_borrower_sets_is_used(make_pool):
    """Though the columns are known; and it is gone with the loan."""
    pool = make_pool()
    statement = "SELECT 7 AS seven"
    kind = 3  # LONG
    for setter in (
        lambda conn: conn.decoders.__setitem__(kind, lambda text: f"<{text}>"),
        lambda conn: setattr(conn, "decoders", {kind: lambda text: f"<{text}>"}),
    ):
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute(statement)
            assert cursor.fetchone() == (7,)
            setter(conn)
            cursor.execute(statement)
            assert cursor.fetchone() == ("<7>",)
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute(statement)
            assert cursor.fetchone() == (7,)


def test_a_change_is_seen_in_the_reply_before_the_rows(make_pool):
    """The status after the columns counts, though they are known."""
    conn = make_pool().acquire(reclaim=False)
    statement = "SELECT 1 AS changing"
    with conn.cursor(SSCursor) as cursor:
        cursor.execute(statement)
    columns = conn.decoders.columns
    (key,) = [each for each in columns if b"changing" in each[0]]
    *parsed, status = columns[key]
    columns[key] = (*parsed, status | packets.CHANGED)
    assert not conn.left
    with conn.cursor(SSCursor) as cursor:
        cursor.execute(statement)
        assert conn.left
    del columns[key]


@pytest.mark.parametrize("size", [1, 7, 30, 56, 57])
def test_columns_that_come_in_pieces_are_parsed(size, make_pool, monkeypatch):
    """Only what is there in one piece is looked up."""
    conn = make_pool().acquire(reclaim=False)
    for block in (packets.BLOCK, size, packets.BLOCK):
        monkeypatch.setattr(packets, "BLOCK", block)
        with conn.cursor() as cursor:
            cursor.execute("SELECT 1 AS one, 2 AS two")
            assert cursor.fetchone() == (1, 2)
            assert [each[0] for each in cursor.description] == ["one", "two"]


def test_few_columns_are_kept(monkeypatch):
    """Not more than so many in all: statements may be made by a program."""
    monkeypatch.setattr(results, "MOST", 2)
    columns = results.Columns()
    for fields in (["a"], ["b"], ["c"], ["d", "e", "f"]):
        columns.add((fields[0].encode(), "utf8", True), (fields, [], (), 0))
    assert not columns
    columns.add((b"g", "utf8", True), (["g"], [], (), 0))
    columns.add((b"h", "utf8", True), (["h"], [], (), 0))
    assert {key[0] for key in columns} == {b"g", b"h"}


def test_equal_tables_share_columns_as_long_as_they_are_used():
    """Equal means that they have the same converters, which need not be hashable."""
    first, second = Converters({1: int}), Converters({1: int})
    assert first.columns is second.columns is not Converters({1: str}).columns
    second[1] = str
    assert second.columns is None
    assert first.columns is not None
    first.columns.add((b"", "", True), (["a"], [], (), 0))
    del first
    gc.collect()
    assert not Converters({1: int}).columns
    first, second = Converters({1: Alike()}), Converters({1: Alike()})
    assert first.columns is not second.columns
    assert first.columns is Converters(dict(first)).columns


class Alike:
    """A converter that equals others of its kind, and is no key of a dict."""

    def __eq__(self, other):
        return isinstance(other, Alike)


def test_an_empty_packet_of_the_login_is_an_error_of_the_driver(through, proxy):
    """PyMySQL itself raises IndexError. The connection is closed."""
    # The reply without its header begins like an empty packet with the right number.
    proxy.answer = lambda data: data[4:] if data[3:5] == b"\x02\x00" else data
    pool = through()
    with pytest.raises(pymysql.InternalError, match="a packet of the login is empty"):
        pool.acquire()
    assert pool.size == 0
