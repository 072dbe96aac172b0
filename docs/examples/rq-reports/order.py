"""Orders reports from many greenlets and waits for all: order.py [REPORTS]."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402
import time  # noqa: E402

import gevent  # noqa: E402
from gevent.pool import Pool  # noqa: E402
from reports import client, queue, write  # noqa: E402


def order(number):
    """Return whether the report was written."""
    job, end = queue.enqueue(write, number), time.monotonic() + 30
    while not job.is_finished and not job.is_failed and time.monotonic() < end:
        gevent.sleep(0.1)
    return job.return_value() == f"report {number}"


def main(reports=20):
    """Order the reports, and print what has come back."""
    written = sum(Pool(50).imap_unordered(order, range(reports)))
    print(f"{written} of {reports} reports written")
    names = [each["name"] for each in client.client_list()]
    print(f"connections: {names.count('reports')}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
