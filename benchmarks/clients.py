"""Greenlets that send requests through pools again and again, and their account.

Each request carries its own tag, and the reply must carry it back. In rough times some
requests are given up half-way, and greenlets can be killed wherever they are; for each
one killed another takes its place.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import gevent

from benchmarks.adapters import PoolAdapter

#: Seconds that a client does something else after a reply, at most.
PAUSE = 0.02

#: Seconds that a client waits after an error before it sends the request again.
AFTER_ERROR = 0.05

#: The fraction of requests in rough times that are given up, and after how many seconds
#: at most.
GIVEN_UP, GIVE_UP_AFTER = 0.1, 0.02


@dataclass
class Account:
    """What became of the requests through one pool.

    :ivar wrong: replies that carried another tag than the request.
    :ivar given_up: requests that a ``gevent.Timeout`` of the client ended.
    :ivar errors: attempts that failed, by the name of the error. The client sends the
        request again.
    :ivar latencies: seconds from the first attempt of a request to its reply.
    :ivar pending: when each request without a reply began, by client.
    :ivar answered_at: the time of each right reply, as ``time.monotonic`` returns it.
    :ivar failures: when each failed attempt began and ended.
    """

    wrong: int = 0
    given_up: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    pending: dict[int, float] = field(default_factory=dict)
    answered_at: list[float] = field(default_factory=list)
    failures: list[tuple[float, float]] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Replies that carried the tag of the request."""
        return len(self.answered_at)

    @property
    def failed(self) -> int:
        """Attempts that failed; those that the client gave up did not."""
        return self.errors.total()

    def latencies_since(self, first: int = 0) -> list[float]:
        """Return the latencies from number *first* on, and those of pending requests.

        A pool that never serves somebody must not look better for it.
        """
        now = time.monotonic()
        return self.latencies[first:] + [now - began for began in self.pending.values()]


class Clients:
    """So many greenlets, each of which sends requests to all pools in turn.

    :param pools: the adapters, whose ``request`` is called.
    :param accounts: one for each pool.
    :param size: how many greenlets.
    """

    def __init__(
        self, pools: Sequence[PoolAdapter], accounts: Sequence[Account], size: int
    ) -> None:
        self._targets = list(zip(pools, accounts, strict=True))
        #: of the passes: one request to each pool, and its reply
        self.passes = Account()
        self.killed = 0
        #: Whether requests are given up half-way now.
        self.is_rough = False
        # The same behaviour for every pool.
        self._random = random.Random(7)
        self._numbers = itertools.count()
        self._greenlets = [self._spawn() for _ in range(size)]

    def kill_one(self) -> None:
        """Kill any one wherever it is, and start another. Never switches."""
        place = self._random.randrange(len(self._greenlets))
        self._greenlets[place].kill(block=False)
        self._greenlets[place] = self._spawn()
        self.killed += 1

    def stop(self) -> None:
        """End all of them. May switch."""
        gevent.killall(self._greenlets, timeout=10)

    def _spawn(self) -> gevent.Greenlet[..., None]:
        return gevent.spawn(self._run, next(self._numbers))

    def _run(self, number: int) -> None:
        try:
            for count in itertools.count():
                self._pass(number, f"{number}.{count}")
                gevent.sleep(self._random.random() * PAUSE)
        finally:
            self.passes.pending.pop(number, None)

    def _pass(self, number: int, tag: str) -> None:
        """Send one request to each pool. May switch."""
        began = self.passes.pending[number] = time.monotonic()
        # All are sent, also after one that was given up.
        replied = [self._ask(*target, number, tag) for target in self._targets]
        if all(replied):
            self.passes.latencies.append(time.monotonic() - began)
        del self.passes.pending[number]

    def _ask(self, pool: PoolAdapter, account: Account, number: int, tag: str) -> bool:
        """Send one request, again and again until there is a reply. May switch.

        :return: False: it was given up.
        """
        seconds = None
        if self.is_rough and self._random.random() < GIVEN_UP:
            seconds = self._random.random() * GIVE_UP_AFTER
        began = account.pending[number] = time.monotonic()
        limit = gevent.Timeout.start_new(seconds)
        try:
            while (reply := self._try(pool, account, tag)) is None:
                gevent.sleep(AFTER_ERROR)
        except gevent.Timeout as late:
            if late is not limit:
                raise
            account.given_up += 1
            return False
        else:
            now = time.monotonic()
            account.latencies.append(now - began)
            if reply == tag:
                account.answered_at.append(now)
            else:
                account.wrong += 1
            return True
        finally:
            limit.close()
            account.pending.pop(number, None)

    @staticmethod
    def _try(pool: PoolAdapter, account: Account, tag: str) -> str | None:
        """Return the reply to one attempt; None: it failed. May switch."""
        assert pool.request is not None
        began = time.monotonic()
        try:
            return pool.request(tag)
        except Exception as error:
            # Any: the server is stopped here, and what a pool makes of it is counted.
            account.errors[type(error).__name__] += 1
            account.failures.append((began, time.monotonic()))
            return None
