"""Books payments with 50 greenlets on ten connections until SIGTERM: work.py."""

from gevent import monkey

monkey.patch_all()

import signal  # noqa: E402

import gevent  # noqa: E402
import psycopg  # noqa: E402
from gevent.event import Event  # noqa: E402
from gevent.lock import Semaphore  # noqa: E402
from jobs import ADDRESS, AWAY, make_pool  # noqa: E402

TAKE = """
    DELETE FROM jobs WHERE id = (
        SELECT id FROM jobs ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) RETURNING account, amount
"""
BOOK = """
    INSERT INTO accounts VALUES (%s, %s)
    ON CONFLICT (account) DO UPDATE SET balance = accounts.balance + excluded.balance
"""

GREENLETS = 50

pool = make_pool("worker")
#: Each notification wakes one greenlet.
notified = Semaphore(0)


def book() -> bool:
    """Book the oldest payment that no other greenlet has; False: there is none."""
    # If this is interrupted, the server rolls back, and the job is in its place again.
    with pool.connection() as conn, conn.transaction():
        job = conn.execute(TAKE).fetchone()
        if job is None:
            return False
        gevent.sleep(0.02)  # stands for the bank's reply
        conn.execute(BOOK, job)
    return True


def work() -> None:
    """Book payments, and wait for more."""
    while True:
        try:
            while book():
                pass
        except AWAY as error:
            print("a payment was not booked:", error)
            gevent.sleep(0.1)
        else:
            notified.acquire(timeout=30)


def listen() -> None:
    """Wake the greenlets when jobs arrive."""
    while True:
        try:
            # No loan: LISTEN belongs to the session, and lasts as long as the program.
            with psycopg.connect(
                ADDRESS, application_name="listener", autocommit=True
            ) as conn:
                conn.execute("LISTEN jobs")
                print("listening")
                # Nothing has told of the jobs that arrived before.
                for _ in range(GREENLETS):
                    notified.release()
                for _ in conn.notifies():
                    notified.release()
        except psycopg.OperationalError as error:
            print("the listener connects again:", error)
            gevent.sleep(0.1)


def main() -> None:
    """Work until SIGTERM. Payments that are not booked by then stay in the table."""
    stopped = Event()
    gevent.signal_handler(signal.SIGTERM, stopped.set)
    greenlets = [gevent.spawn(listen), *(gevent.spawn(work) for _ in range(GREENLETS))]
    stopped.wait()
    gevent.killall(greenlets)
    pool.close(timeout=5)


if __name__ == "__main__":
    main()
