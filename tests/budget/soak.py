"""A long run of workers that share a budget, while some of them are killed.

``python -m tests.budget.soak SECONDS`` lets the load wander for so long, while each
second a worker is killed by SIGKILL and replaced, and each minute all are replaced by
new ones that run beside them for a while. It prints what the server saw.
"""

from __future__ import annotations

import random
import signal
import statistics
import sys
import time

from geventpool import Budget
from tests.budget.host import TOTAL, Host, Worker

WORKERS = 8


def wander(seconds: float) -> int:
    """Let the load wander, kill workers, and replace all of them each minute.

    :return: 0 if there were never more connections than the total.
    """
    host = Host(WORKERS, TOTAL, budget=True)
    budget = Budget(host.budget, TOTAL)
    freed: list[float] = []
    failed: list[str] = []
    old: list[Worker] = []
    most = dials = loans = 0
    began = time.monotonic()
    try:
        while time.monotonic() - began < seconds:
            step = len(freed)
            hot = step // 2 * 7 % WORKERS
            for number, worker in enumerate(host.workers):
                answer = worker.load(60 if number == hot else 6)
                loans += answer["loans"]
                failed += answer["failed"]
            time.sleep(0.5)
            if step % 60 == 30:
                old, host.workers = host.workers, [host.begin() for _ in range(WORKERS)]
            elif step % 60 == 33:
                while old:
                    old.pop().end(signal.SIGTERM)
            victim = random.randrange(WORKERS)
            killed = host.workers[victim]
            at = time.monotonic()
            killed.end()
            while any(share.pid == killed.pid for share in budget.stats().shares):
                time.sleep(0.001)
            freed.append(time.monotonic() - at)
            host.workers[victim] = host.begin()
            time.sleep(0.5)
            peak, opened = host.seen()
            most, dials = max(most, peak), dials + opened
        stats = budget.stats()
    finally:
        host.workers += old
        host.close()
    print(
        f"{seconds:g} s, {WORKERS} workers, total {TOTAL}, {len(freed)} kills: "
        f"at most {most} open at once, {loans} loans, {dials / seconds:.0f} dials/s, "
        f"{len(failed)} failed {failed[:1]}, leases of a killed worker free after "
        f"{statistics.median(freed) * 1e3:.0f} ms (median), at most "
        f"{max(freed) * 1e3:.0f} ms, {sum(each > 0.2 for each in freed)} of them after "
        f"more than 200 ms; {stats.moved} places moved"
    )
    return int(most > TOTAL)


if __name__ == "__main__":
    sys.exit(wander(float(sys.argv[1])))
