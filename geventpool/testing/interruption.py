"""Runs a scenario repeatedly, each time interrupted at another switch point."""

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
    """The ordinary error that :func:`interrupt_everywhere` throws."""


#: The kinds of interruption: a kill, a timeout, an error, a signal.
INTERRUPTIONS: tuple[type[BaseException], ...] = (
    gevent.GreenletExit,
    gevent.Timeout,
    Interrupted,
    KeyboardInterrupt,
)


#: Makes new pools; returns the work of the main greenlet, and the pools.
Scenario: TypeAlias = "Callable[[], tuple[Callable[[], object], Sequence[Pool[Any]]]]"

#: Whether to interrupt a greenlet; None: only the main greenlet of the scenario.
Victims: TypeAlias = "Callable[[greenlet.greenlet], bool] | None"

#: One error to throw, or several to throw together.
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
    """Throw errors at each switch point of a scenario; return their number.

    The scenario is run repeatedly: each kind of error is thrown at the 1st, 2nd, 3rd...
    switch of a victim, until a run has no such switch. A run ends when the main
    greenlet has ended and no other greenlet is ready to run. After each run the pool's
    state is checked and every place is lent once. May switch.

    :param scenario: makes new pools; returns the work of the main greenlet, and the
        pools to check.
    :param errors: the errors to throw. Those in a tuple are thrown one after the other
        within one turn of the loop, as by nested timeouts that end together: the second
        interrupts the handling of the first.
    :param victims: whether to interrupt a greenlet; None: only the main greenlet of the
        scenario. For the greenlets of a pool, let the scenario store the pool, and give
        ``lambda it: it in pool_greenlets(pool)``.
    :param int later: 0: throw as soon as the victim has switched away. Above 0: after
        so many further callbacks of the event loop, so that the event it waits for
        comes first. -1: before an event that the victim itself has scheduled, such as
        the end of its ``gevent.sleep(0)``. With -1, 0, 1 and 2, all orders of a race
        are run.
    :param int most: fail after so many switch points.
    :param float patience: seconds within which a run must end, and every place be free.
    :param afterwards: called after each run, before the pools are closed, for further
        checks; for example that the next borrower gets its own answer.
    :raises AssertionError: an invariant is violated. The message names the switch
        point.
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


def count_points(run_to: Callable[[int], bool], most: int, tries: int = 1) -> int:
    """Run a scenario to its 1st, 2nd, 3rd... point; return their number. May switch.

    :param run_to: runs the scenario to a point; False: it has fewer points.
    :param int tries: so many runs with fewer points mean that there are no more.
    :raises AssertionError: it has *most* points or more.
    """
    for point in range(1, most):
        if not any(run_to(point) for _ in range(tries)):
            return point - 1
    raise AssertionError(f"no end after {most} switch points")


class Run:
    """One run of a scenario, with a function called at one of its switch points.

    :param float patience: seconds within which the run must end.
    :param str strike: the name of the function, for messages.
    """

    def __init__(self, scenario: Scenario, patience: float, strike: str) -> None:
        target, self.pools = scenario()
        self._target = target
        self._patience = patience
        self._point = 0
        #: what the target raised; empty: nothing
        self.outcome: list[BaseException] = []
        self.main = gevent.Greenlet(self._run)
        self._seen = 0
        #: what was done, for messages
        self.story = strike

    def _run(self) -> None:
        # Errors end here, so that the hub does not print them.
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

        :raises AssertionError: the run did not end in time.
        """
        self._point = point

        # Coverage is not traced within greenlet's own tracing.
        def trace(event: str, parties: Any) -> None:  # pragma: no cover
            # An error that is thrown when the victim is entered takes effect at its
            # next switch.
            victim = parties[1] if later < 0 else parties[0]
            if victim is self.main if victims is None else victims(victim):
                self._seen += 1
                if self._seen == point:
                    _call_later(partial(strike, victim), later)

        with tracing(trace):
            self.main.start()
            gevent.joinall([self.main], timeout=self._patience)
            # The pool's greenlets may still have work to do.
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
        """Check the pools and close them; True: the run had such a switch point.

        May switch.

        :param look: called with each pool and the patience.
        :raises AssertionError: an invariant is violated.
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
    """Check the state of a pool, and that every place can be lent. May switch.

    :raises AssertionError: names what is wrong.
    """
    check(pool)
    check_capacity(pool, patience)


def _forget_frames(error: BaseException | None) -> None:
    # Frames may hold loans, which end when the frames are freed.
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
