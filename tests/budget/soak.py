"""The soak of a budget: the load wanders, workers are killed, and all are replaced.

    python -m tests.budget.soak SECONDS

Each second a worker is killed by SIGKILL and replaced, and each minute all are replaced
by new ones that run beside them for a while. It prints what the server saw. A test lets
it run for some steps.
"""

from __future__ import annotations

import random
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field

from geventpool import Budget
from tests.budget.host import TOTAL, Host, Worker
from tests.pauses import real_time

WORKERS = 8

#: Steps for which old and new workers run together.
BESIDE = 3


@dataclass
class Seen:
    """What was seen of the workers.

    :ivar most: connections at the server at once.
    :ivar freed: seconds from each kill until the places were free.
    :ivar replaced: how often all workers were.
    :ivar moved: places that went from one worker to another.
    """

    most: int = 0
    dials: int = 0
    loans: int = 0
    moved: int = 0
    replaced: int = 0
    failed: list[str] = field(default_factory=list)
    freed: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{WORKERS} workers, total {TOTAL}, {len(self.freed)} kills: at most "
            f"{self.most} open at once, {self.loans} loans, {self.dials} dials, "
            f"{len(self.failed)} failed {self.failed[:1]}, leases of a killed worker "
            f"free after {statistics.median(self.freed) * 1e3:.0f} ms (median), at "
            f"most {max(self.freed) * 1e3:.0f} ms, {sum(t > 0.2 for t in self.freed)} "
            f"of them after more than 200 ms; {self.moved} places moved"
        )


def wander(seconds: float, pause: float = 0.5, every: int = 60) -> Seen:
    """Let the load wander for so long.

    :param pause: seconds before and after each kill.
    :param every: after so many kills all workers are replaced.
    """
    host = Host(WORKERS, TOTAL, budget=True)
    budget = Budget(host.budget, TOTAL)
    seen = Seen()
    old: list[Worker] = []
    began = time.monotonic()
    try:
        while time.monotonic() - began < seconds:
            step = len(seen.freed)
            hot = step // 2 * 7 % WORKERS
            for number, worker in enumerate(host.workers):
                answer = worker.load(60 if number == hot else 6)
                seen.loans += answer["loans"]
                seen.failed += answer["failed"]
            real_time(pause)
            if step % every == every // 2:
                old, host.workers = host.workers, [host.begin() for _ in range(WORKERS)]
                seen.replaced += 1
            elif step % every == (every // 2 + BESIDE) % every:
                while old:
                    old.pop().end(signal.SIGTERM)
            seen.freed.append(kill_one(host, budget))
            real_time(pause)
            peak, opened = host.seen()
            seen.most, seen.dials = max(seen.most, peak), seen.dials + opened
        seen.moved = budget.stats().moved
    finally:
        host.workers += old
        host.close()
    return seen


def kill_one(host: Host, budget: Budget) -> float:
    """Replace a killed worker; return the seconds until its places were free."""
    victim = random.randrange(WORKERS)
    killed = host.workers[victim]
    at = time.monotonic()
    killed.end()
    while any(share.pid == killed.pid for share in budget.stats().shares):
        real_time(0.001)
    took = time.monotonic() - at
    host.workers[victim] = host.begin()
    return took


if __name__ == "__main__":
    seen = wander(float(sys.argv[1]))
    print(seen)
    sys.exit(int(seen.most > TOTAL))
