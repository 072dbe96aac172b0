"""Copies numbers from Redis to MySQL with 500 greenlets: import_rows.py [ROWS].

Ctrl-C ends it. Started again, it goes on where it was.
"""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import sys  # noqa: E402

import redis  # noqa: E402
from gevent.pool import Pool  # noqa: E402

import geventpool.mysql  # noqa: E402
import geventpool.redis  # noqa: E402

source = redis.Redis(
    connection_pool=geventpool.redis.ConnectionPool.from_url(
        os.environ["REDIS_URL"], max_connections=10
    )
)
target = geventpool.mysql.ConnectionPool(os.environ["MYSQL_URL"], max_connections=10)

TABLE = """
    CREATE TABLE IF NOT EXISTS imported (
        id INT PRIMARY KEY, number INT NOT NULL
    )
"""

#: Those of this account.
CONNECTIONS = """
    SELECT COUNT(*) FROM information_schema.processlist
    WHERE user = SUBSTRING_INDEX(USER(), '@', 1)
"""


def copy(row: int) -> None:
    """Copy one row, unless it is there already."""
    number = int(source.get(f"number:{row}"))
    with target.cursor() as cursor:
        cursor.execute("INSERT IGNORE INTO imported VALUES (%s, %s)", (row, number))


def count(statement: str) -> int:
    """Return the number that the server answers."""
    with target.cursor() as cursor:
        cursor.execute(statement)
        return int(cursor.fetchone()[0])


def main(rows: int = 2000) -> None:
    """Copy the rows, and print what the servers have counted."""
    with target.cursor() as cursor:
        cursor.execute(TABLE)
    workers = Pool(500)
    print("copying", flush=True)
    try:
        for row in range(rows):
            workers.spawn(copy, row)
        workers.join()
    except KeyboardInterrupt:
        print("interrupted")
        workers.kill()
    print("rows:", count("SELECT COUNT(*) FROM imported"))
    print("connections to MySQL:", count(CONNECTIONS))
    print("connections to Redis:", len(source.client_list()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
