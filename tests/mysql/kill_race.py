"""Interrupts statements beside others, and looks for a KILL that hit one of the others.

``python -m tests.mysql.kill_race 10000`` does so many tries, with as many interrupted
greenlets as connections that are not.
"""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

# Everything below must see the patched standard library.
import random
import sys

import gevent
from pymysql import err

from geventpool.mysql import ConnectionPool
from tests.pauses import give_up_after
from tests.servers import MariaDBServer


def race(pool, stranger, tries):
    """Interrupt *tries* loans of *pool* beside steady borrowers of both pools.

    Every reply is compared with its question. May switch.

    :return: the number of right replies, and the list of what went wrong.
    """
    done, served, wrong = [0], [0], []

    def borrow(pool, number):
        while done[0] < tries:
            with pool.connection() as conn, conn.cursor() as cursor:
                try:
                    expected = served[0]
                    cursor.execute(f"SELECT SLEEP(0.0005) + {number}")
                    assert cursor.fetchone() == (number,)
                    cursor.execute("SELECT %s", (expected,))
                    assert cursor.fetchone() == (expected,)
                    served[0] += 1
                except (AssertionError, err.MySQLError) as error:
                    wrong.append(error)

    def fall():
        while done[0] < tries:
            with pool.connection() as conn, conn.cursor() as cursor:
                with give_up_after(random.random() * 0.006):
                    seconds = random.choice((0.001, 0.004, 0.02))
                    cursor.execute(f"SELECT SLEEP({seconds})")
                    cursor.execute("SELECT SLEEP(0.0005)")
                done[0] += 1

    jobs = [gevent.spawn(borrow, pool, 1), gevent.spawn(borrow, stranger, 2)]
    jobs += [gevent.spawn(fall) for _ in range(6)]  # type: ignore[call-overload]
    gevent.joinall(jobs, raise_error=True)
    return served[0], wrong


def main(tries):
    """Run the race on a server of its own; return 0 if nothing went wrong."""
    with MariaDBServer() as server:
        where = {**server.client_options, "autocommit": True}
        pool = ConnectionPool(max_connections=4, **where)
        stranger = ConnectionPool(max_connections=1, **where)
        served, wrong = race(pool, stranger, tries)
        stats = pool.stats()
        print(
            f"{stats.cancelled} statements ended, {stats.saved} connections kept, "
            f"{stats.abandoned} abandoned; {served} others served, {len(wrong)} wrong"
        )
        for error in wrong[:10]:
            print(repr(error))
        pool.close(timeout=5)
        stranger.close(timeout=5)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
