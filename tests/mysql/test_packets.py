"""The packets of the protocol."""

from __future__ import annotations

from geventpool.mysql import packets
from tests.mysql.test_wire import result_of


def test_columns_are_described_once(make_pool):
    """The columns of a statement that comes again need not be parsed again."""
    conn = make_pool().acquire(reclaim=False)
    cursor = conn.cursor()
    cursor.execute("SELECT 1 AS one")
    first = result_of(conn).fields[0]
    cursor.execute("SELECT 1 AS one")
    assert result_of(conn).fields[0] is first
    packets._columns.update(
        {(b"%d" % number, ""): first for number in range(packets._MAX_COLUMNS)}
    )
    cursor.execute("SELECT 1 AS another")
    assert cursor.description[0][0] == "another"
    assert len(packets._columns) < 10
