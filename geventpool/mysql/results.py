"""Results of statements: columns that are parsed once, and rows that are read late.

Repeated statements have the same columns. Parsing their descriptions takes longer than
reading a row, so they are looked up by the bytes that the server has sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymysql.connections import MySQLResult

if TYPE_CHECKING:
    from geventpool.mysql.packets import Packets

__all__ = ["MOST", "Columns", "Result", "Stream"]

#: The most columns that are kept for a table of converters.
MOST = 2000

#: Typed as Any because the private members are not in the published stubs.
_pymysql: Any = MySQLResult

#: What the server has sent, the encoding of names and values, and whether text is
#: decoded.
Key = tuple[bytes, str, bool]
#: PyMySQL's fields, converters and description, and the status after them.
Parsed = tuple[list[Any], list[Any], tuple[Any, ...], int]


class Columns(dict[Key, Parsed]):
    """A cache of parsed columns, valid for one table of converters."""

    def __init__(self) -> None:
        super().__init__()
        self._number = 0

    def add(self, key: Key, parsed: Parsed) -> None:
        """Keep what was parsed, unless it is too much. Never switches."""
        number = len(parsed[0])
        if self._number + number > MOST:
            self.clear()
            self._number = 0
        if number <= MOST:
            self[key] = parsed
            self._number += number


class Result(MySQLResult):
    """A result whose columns are parsed only if they are new."""

    connection: Packets | None
    field_count: int
    fields: list[Any]
    converters: list[Any]
    description: tuple[Any, ...]

    def _get_descriptions(self) -> None:
        conn: Any = self.connection
        # A table that a borrower has changed or replaced has no cache.
        columns: Columns | None = getattr(conn.decoders, "columns", None)
        number = self.field_count + 1
        block = None if columns is None else conn.next_packets(number)
        if columns is None or block is None:
            _pymysql._get_descriptions(self)
            return
        key = block, conn.encoding, conn.use_unicode
        parsed = columns.get(key)
        if parsed is None:
            _pymysql._get_descriptions(self)
            found = self.fields, self.converters, self.description
            columns.add(key, (*found, conn.server_status))
        else:
            self.fields, self.converters, self.description, status = parsed
            conn.skip_packets(block, number, status)


class Stream(Result):
    """An unbuffered result that never reads in its finalizer.

    A finalizer may run anywhere and in any greenlet. The connection reads or discards
    the rows that are left.
    """

    def __del__(self) -> None:
        pass

    def _finish_unbuffered_query(self) -> None:
        # If the connection is closed, the rest is lost: closing the cursor is no error.
        # (Reading on is an error.)
        if self.connection is None or self.connection.open:
            _pymysql._finish_unbuffered_query(self)
