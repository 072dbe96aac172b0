"""PyMySQL under gevent: a connection pool that resets what a borrower changed.

::

    pool = geventpool.mysql.ConnectionPool("mysql://user:password@host/database")
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT 1")
"""

from geventpool.mysql.connection import Connection
from geventpool.mysql.connector import MySQLConnector
from geventpool.mysql.errors import ConnectionInUseError, NoServerError
from geventpool.mysql.pool import ConnectionPool

__all__ = [
    "Connection",
    "ConnectionInUseError",
    "ConnectionPool",
    "MySQLConnector",
    "NoServerError",
]
