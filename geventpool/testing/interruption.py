"""Run a scenario again and again, each time interrupted at another switch point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import gevent
import greenlet

from geventpool.pool import Pool
from geventpool.testing.checks import check, check_capacity
from geventpool.testing.switching import tracing

__all__ = ["INTERRUPTIONS", "Interrupted", "interrupt_everywhere"]


class Interrupted(Exception):
    """What :func:`interrupt_everywhere` raises in its victim as an ordinary error."""


#: How a greenlet can be interrupted: killed, timed out, failed, stopped by a signal.
INTERRUPTIONS: tuple[type[BaseException], ...] = (
    gevent.GreenletExit,
    gevent.Timeout,
    Interrupted,
    KeyboardInterrupt,
)


#: Makes everything anew; gives what the main greenlet is to do, and the pools.
Scenario: TypeAlias = "Callable[[], tuple[Callable[[], object], Sequence[Pool[Any]]]]"

#: Is this greenlet one to strike? None: the main greenlet of the scenario.
Victims: TypeAlias = "Callable[[greenlet.greenlet], bool] | None"

#: One thing that is thrown, or several that are thrown together.
Interruption: TypeAlias = "type[BaseException] | tuple[type[BaseException], ...]"


def interrupt_everywhere(
    scenario: Scenario,
    *,
    errors: Sequence[Interruption] = INTERRUPTIONS,
    victims: Victims = None,
    later: int = 0,
    most: int = 1000,
    patience: float = 10.0,
    afterwards: Callable[[], object] | None = None,
) -> int:
    """How many switch points a scenario has, after it survived an error at each.

    A run ends when the main greenlet has ended and no other greenlet is ready to run;
    until then victims are interrupted.

    The scenario is run again and again: with each kind of error, and with each thrown
    at the 1st, 2nd, 3rd... switch of its victim, until a run has no such switch left.
    After each run the pool's books are checked and every place is lent once.
    May switch.

    :param scenario: makes everything anew; gives what the main greenlet is to do, and
        the pools to be checked.
    :param errors: what is thrown; several in a tuple are thrown one after the other
        within one turn of the loop, as by nested time-outs that end together: the
        second strikes where the first is being dealt with.
    :param victims: is this greenlet one to interrupt? None: the main greenlet of the
        scenario. For the greenlets that a pool owns, let the scenario note the pool,
        and say ``lambda it: it in pool_greenlets(pool)``.
    :param int later: 0: throw as soon as the victim has been left. More: after so many
        further callbacks of the event loop, so that the event it waits for comes first.
        -1: so early that it overtakes what the victim itself has set going, such as
        the end of its ``gevent.sleep(0)``. A race has been run in all its orders when
        it has been run with -1, 0, 1 and 2.
    :param int most: give up after so many switch points.
    :param float patience: seconds after which one run should have ended, and every
        place be free.
    :param afterwards: called after each run, before the pools are closed: to see, for
        instance, that the next borrower gets an answer of its own.
    :raises AssertionError: an invariant broke; the message says where.
    """
    points = 0
    for error in errors:
        blows = error if isinstance(error, tuple) else (error,)
        names = " and ".join(blow.__name__ for blow in blows)

        def run_to(point: int, blows: Any = blows, names: str = names) -> bool:
            run = Run(scenario, patience, names)
            run.go(point, partial(_throw, blows), victims, later)
            return run.ends_well(look_for_losses, afterwards)

        points = max(points, count_points(run_to, most))
    return points


def count_points(run_to: Callable[[int], bool], most: int) -> int:
    """Run a scenario to its 1st, 2nd, 3rd... point; return how many it has.

    May switch.

    :param run_to: runs it to a point; False: it has fewer.
    :raises AssertionError: it has *most* points or more.
    """
    for point in range(1, most):
        if not run_to(point):
            return point - 1
    raise AssertionError(f"no end after {most} switch points")


class Run:
    """One run of a scenario, with a strike at one of its switch points.

    :param float patience: seconds after which it should have ended.
    :param str strike: what the strike is, for messages.
    """

    def __init__(self, scenario: Scenario, patience: float, strike: str) -> None:
        target, self.pools = scenario()
        self._target = target
        self._patience = patience
        self._point = 0
        #: what the target raised, if it did
        self.outcome: list[BaseException] = []
        self.main = gevent.Greenlet(self._run)
        self._seen = 0
        #: what was done, for messages
        self.story = strike

    def _run(self) -> None:
        # Whatever is thrown ends here; the hub prints nothing.
        try:
            self._target()
        except BaseException as raised:
            _forget_frames(raised)
            self.outcome.append(raised)

    def go(
        self,
        point: int,
        strike: Callable[[Any], object],
        victims: Victims = None,
        later: int = 0,
    ) -> None:
        """Run; call *strike* in the hub with the victim at its switch number *point*.

        May switch.

        :raises AssertionError: no end in time.
        """
        self._point = point

        # Coverage is not traced within greenlet's own tracing.
        def trace(event: str, parties: Any) -> None:  # pragma: no cover
            # Thrown when the victim is entered, it strikes where that is left next.
            victim = parties[1] if later < 0 else parties[0]
            if victim is self.main if victims is None else victims(victim):
                self._seen += 1
                if self._seen == point:
                    _call_later(partial(strike, victim), later)

        with tracing(trace):
            self.main.start()
            gevent.joinall([self.main], timeout=self._patience)
            # The pool's own greenlets go on with what the main greenlet has left.
            gevent.idle()  # pragma: no cover (as above)
        self.story += f" at switch {point}, {later} callbacks later: {self.outcome}"
        if not self.main.dead:
            self._close()
            raise AssertionError(f"never ended: {self.story}")

    def ends_well(
        self,
        look: Callable[[Pool[Any], float], object],
        afterwards: Callable[[], object] | None = None,
    ) -> bool:
        """Look at the pools and close them; True: there was such a point.

        May switch.

        :param look: called with each pool and the patience.
        :raises AssertionError: an invariant broke.
        """
        late = AssertionError("no end of what comes after")
        try:
            for pool in self.pools:
                look(pool, self._patience)
            if afterwards is not None:
                with gevent.Timeout(self._patience, late):
                    afterwards()
        except AssertionError as broken:
            raise AssertionError(f"{self.story}: {broken}") from broken
        finally:
            self._close()
        return self._seen >= self._point

    def _close(self) -> None:
        for pool in self.pools:
            pool.close(timeout=0)


def look_for_losses(pool: Pool[Any], patience: float) -> None:
    """The books are in order, and every place can be lent. May switch.

    :raises AssertionError: what is wrong.
    """
    check(pool)
    check_capacity(pool, patience)


def _forget_frames(error: BaseException | None) -> None:
    # What its frames hold gives back what it holds when it goes.
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def _call_later(strike: Callable[[], object], later: int) -> None:
    loop = gevent.get_hub().loop
    if later > 0:
        loop.run_callback(_call_later, strike, later - 1)
    else:
        loop.run_callback(strike)


def _throw(errors: tuple[type[BaseException], ...], victim: Any) -> None:
    for error in errors:
        if not victim.dead:
            victim.throw(error())
