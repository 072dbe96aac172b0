"""A connection to MySQL, beside its packets."""

from __future__ import annotations

import pytest
from pymysql import err
from pymysql.cursors import SSCursor


def test_cursors_that_are_gone_are_forgotten(make_pool):
    """A loan that makes a thousand cursors does not keep a thousand references."""
    with make_pool().connection() as conn:
        kept = [conn.cursor() for _ in range(10)]
        for _ in range(1000):
            conn.cursor()
            with conn.cursor(SSCursor):
                pass
        assert len(conn._cursors) < 100
        assert len(conn._streams) == 1
    with pytest.raises(err.ProgrammingError):
        kept[0].execute("SELECT 1")
