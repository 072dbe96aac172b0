"""Orders payments of 1 from 50 greenlets, and waits for them: order.py [PAYMENTS]."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

import gevent  # noqa: E402
import gevent.pool  # noqa: E402
from jobs import AWAY, make_pool  # noqa: E402

pool = make_pool("orders")

CONNECTIONS = """
    SELECT application_name, count(*) FROM pg_stat_activity
    WHERE usename = current_user GROUP BY 1 ORDER BY 1
"""


def order(number: int) -> None:
    """Order one payment. The workers are told when this is committed."""
    with pool.connection() as conn, conn.transaction():
        conn.execute("INSERT INTO jobs VALUES (DEFAULT, %s, 1)", (number % 20,))
        conn.execute("NOTIFY jobs")


def ask(statement: str) -> list[tuple]:
    """Return the rows; ask again if a restart of the server interrupts."""
    while True:
        try:
            with pool.connection() as conn:
                return conn.execute(statement).fetchall()
        except AWAY:
            gevent.sleep(0.1)


def main(payments: int = 200) -> None:
    """Order them, and print what the server has counted."""
    for _ in gevent.pool.Pool(50).imap_unordered(order, range(payments)):
        pass
    print("payments ordered:", payments)
    while ask("SELECT count(*) FROM jobs") != [(0,)]:
        gevent.sleep(0.1)
    [(balance,)] = ask("SELECT sum(balance) FROM accounts")
    print("payments booked:", balance)
    for name, number in ask(CONNECTIONS):
        print(f"connections of {name}: {number}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
