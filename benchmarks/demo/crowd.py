"""
The crowd: greenlets that ask at every door in turn, again and again.

Each request carries a tag of its own, and the reply must carry it back. When times are
rough, members of the crowd are killed wherever they happen to be, and some requests
are given up half-way; for each one killed another takes the place.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import gevent

from benchmarks.demo.doors import Door

#: Seconds a member does something else between two rounds, at most.
PAUSE = 0.02
#: Seconds a member waits after an error, as a sane client does.
CALM_DOWN = 0.05
#: Of requests in rough times, so many are given up after at most so many seconds.
GIVEN_UP, GIVE_UP_AFTER = 0.1, 0.02


class Crowd:
    """
    So many greenlets before so many doors.

    :param doors: where they ask.
    :param size: how many greenlets.
    """

    def __init__(self, doors: Sequence[Door], size: int) -> None:
        self.doors = doors
        self.killed = 0
        #: Are requests given up half-way now?
        self.is_rough = False
        # The same crowd before our doors and before the stock ones.
        self._random = random.Random(7)
        self._numbers = itertools.count()
        self._members = [self._spawn() for _ in range(size)]

    def kill_one(self) -> None:
        """Kill any one, wherever it stands; another comes. Does not switch."""
        place = self._random.randrange(len(self._members))
        self._members[place].kill(block=False)
        self._members[place] = self._spawn()
        self.killed += 1

    def go_home(self) -> None:
        """End them all. **May switch.**"""
        gevent.killall(self._members, timeout=10)

    def _spawn(self) -> gevent.Greenlet[..., None]:
        return gevent.spawn(self._live, next(self._numbers))

    def _live(self, number: int) -> None:
        for request in itertools.count():
            for door in self.doors:
                self._ask(door, f"{number}.{request}")
            gevent.sleep(self._random.random() * PAUSE)

    def _ask(self, door: Door, tag: str) -> None:
        seconds = None
        if self.is_rough and self._random.random() < GIVEN_UP:
            seconds = self._random.random() * GIVE_UP_AFTER
        limit = gevent.Timeout.start_new(seconds)
        try:
            door.tally.check(tag, door.ask(tag))
        except Exception as error:
            # Any: a server is shut down here, and what a pool makes of it is counted.
            door.tally.errors[type(error).__name__] += 1
            limit.close()
            gevent.sleep(CALM_DOWN)
        except gevent.Timeout as late:
            if late is not limit:
                raise
            door.tally.given_up += 1
        finally:
            limit.close()
