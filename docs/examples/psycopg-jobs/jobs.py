"""Payments that wait in a table of PostgreSQL. ``python jobs.py`` makes the tables."""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402

import psycopg  # noqa: E402

from geventpool import Pool, PoolError  # noqa: E402

ADDRESS = os.environ["POSTGRES_URL"]

#: Raised while the server is away, or if no connection is free in time.
AWAY = (psycopg.OperationalError, PoolError)

TABLES = """
    CREATE TABLE IF NOT EXISTS jobs (
        id bigserial PRIMARY KEY, account int NOT NULL, amount int NOT NULL
    );
    CREATE TABLE IF NOT EXISTS accounts (
        account int PRIMARY KEY, balance int NOT NULL
    )
"""


def make_pool(name: str) -> Pool:
    """Return a pool whose connections have this name at the server."""
    return Pool(
        psycopg.connect,
        {"conninfo": ADDRESS, "application_name": name},
        max_connections=10,
        timeout=30,
    )


if __name__ == "__main__":
    with psycopg.connect(ADDRESS) as conn:
        conn.execute(TABLES)
