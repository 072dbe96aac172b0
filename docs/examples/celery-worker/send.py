"""Sends tasks from fifty greenlets and waits for their results: send.py [TASKS]."""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import sys  # noqa: E402
from collections import Counter  # noqa: E402

from gevent.pool import Pool  # noqa: E402
from tasks import count, counters  # noqa: E402


def main(tasks=200):
    """Send the tasks, and print what has come back."""
    with_result = Pool(50).map(
        lambda number: count.delay(f"word{number % 10}").get(timeout=30), range(tasks)
    )
    print(f"{len(with_result)} of {tasks} tasks done")
    names = Counter(each["name"] for each in counters.client_list())
    for name in ("broker", "results", "tasks"):
        print(f"connections for {name}: {names[name]}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
    # Celery's greenlet that waits for results would go on.
    sys.stdout.flush()
    os._exit(0)
