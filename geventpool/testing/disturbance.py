"""Run a scenario again and again, each time with something done at another point.

Where :mod:`geventpool.testing.interruption` throws errors into a greenlet, here a
function is called with the pools: in the hub, in another greenlet, in a native thread,
in a finaliser, or by a listener.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import gevent
from gevent.monkey import get_original

from geventpool.errors import PoolError
from geventpool.listeners import PoolListener
from geventpool.pool import Pool
from geventpool.testing.checks import check
from geventpool.testing.interruption import (
    Run,
    Scenario,
    Victims,
    count_points,
    look_for_losses,
)

__all__ = [
    "PLACES",
    "disturb_everywhere",
    "exhaust_stack_everywhere",
    "fork_everywhere",
    "in_finaliser",
    "in_greenlet",
    "in_hub",
    "in_thread",
    "tell_everywhere",
]

Work = Callable[[], object]

#: Seconds that a native thread may take for what it is given.
THREAD_TIME = 10.0


def in_hub(work: Work) -> None:
    """Call *work* in a callback of the event loop, as this is called."""
    work()


def in_greenlet(work: Work) -> None:
    """Call *work* in a greenlet of its own, soon. Never switches."""
    gevent.spawn(work)


def in_finaliser(work: Work) -> None:
    """Call *work* in a finaliser that the garbage collector runs. Never switches.

    :raises BaseException: what *work* raised.
    """
    raised: list[BaseException] = []
    doomed = _Doomed(work, raised)
    doomed.myself = doomed
    del doomed
    gc.collect()
    if raised:
        raise raised[0]


class _Doomed:
    """Garbage that only the collector finds."""

    myself: _Doomed

    def __init__(self, work: Work, raised: list[BaseException]) -> None:
        self._work = work
        self._raised = raised

    def __del__(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._raised.append(error)


def in_thread(work: Work) -> None:
    """Call *work* in a native thread, and wait for it without switching.

    :raises BaseException: what *work* raised.
    :raises AssertionError: it does not end.
    """
    raised: list[BaseException] = []
    done = get_original("_thread", "allocate_lock")()
    done.acquire()

    def run() -> None:  # pragma: no cover (no greenlet of the traced thread)
        try:
            work()
        except BaseException as error:
            raised.append(error)
        finally:
            done.release()

    get_original("_thread", "start_new_thread")(run, ())
    assert done.acquire(True, THREAD_TIME), f"no end of {work!r} in a thread"
    if raised:
        raise raised[0]


def _in_finaliser_of_thread(work: Work) -> None:
    in_thread(partial(in_finaliser, work))


#: Wherever a program may call what never switches.
PLACES: tuple[Callable[[Work], object], ...] = (
    in_hub,
    in_greenlet,
    in_finaliser,
    in_thread,
    _in_finaliser_of_thread,
)


def disturb_everywhere(
    scenario: Scenario,
    act: Callable[[Pool[Any]], object],
    *,
    place: Callable[[Work], object] = in_hub,
    victims: Victims = None,
    later: int = 0,
    most: int = 1000,
    patience: float = 10.0,
    expected: tuple[type[BaseException], ...] = (PoolError,),
    afterwards: Callable[[], object] | None = None,
) -> int:
    """How many switch points a scenario has, after *act* was called at each.

    As :func:`~geventpool.testing.interrupt_everywhere`, but nothing is thrown. After
    each run the books of each pool are checked. Every place of a pool that is open is
    lent once; a pool that was closed must have no connection left.

    May switch.

    :param act: called once in each run, with each pool.
    :param place: calls it where it is to be called: one of ``PLACES``, or yours.
    :param expected: errors that the main greenlet may end with.
    :raises AssertionError: an invariant broke, or an error was not expected; the
        message says where.
    """

    def run_to(point: int) -> bool:
        run = Run(scenario, patience, f"{_name(act)} {_name(place)}")
        run.go(point, lambda victim: _at_all(run.pools, act, place), victims, later)
        _expect(run, expected)
        return run.ends_well(_look, afterwards)

    return count_points(run_to, most)


def _at_all(
    pools: Sequence[Pool[Any]],
    act: Callable[[Pool[Any]], object],
    place: Callable[[Work], object],
) -> None:
    for pool in pools:
        place(partial(act, pool))


def _name(function: Any) -> str:
    return getattr(function, "__name__", repr(function))


def _expect(run: Run, expected: tuple[type[BaseException], ...]) -> None:
    for error in run.outcome:
        assert isinstance(error, expected), f"{run.story}: not expected: {error!r}"


def _look(pool: Pool[Any], patience: float) -> None:
    if pool.closed:
        check(pool)
        assert pool.size == 0, f"closed, and not empty: {pool!r}"
    else:
        look_for_losses(pool, patience)


def fork_everywhere(
    scenario: Scenario,
    *,
    victims: Victims = None,
    later: int = 0,
    most: int = 1000,
    patience: float = 10.0,
) -> int:
    """How many switch points a scenario has, after a fork at each.

    Parent and child both go on with the scenario. In both the books are checked and
    every place is lent once. In the child the copy of the main greenlet runs on as long
    as it can; one that waits for what only the parent's greenlets would do is killed.

    May switch.

    :raises AssertionError: an invariant broke, in the parent or in the child.
    """
    parent = os.getpid()

    def run_to(point: int) -> bool:
        run = Run(scenario, patience, "fork")
        child = _Child(run.main)
        try:
            run.go(point, lambda victim: gevent.spawn(child.fork), victims, later)
            _expect(run, (PoolError, gevent.GreenletExit))
            more = run.ends_well(look_for_losses)
        except BaseException as error:
            child.leave(parent, f"{type(error).__name__}: {error}")
            raise
        child.leave(parent, "")
        broken = child.answer()
        assert not broken, f"{run.story}: in the child: {broken}"
        return more

    return count_points(run_to, most)


class _Child:
    """A fork that tells its parent how it ended."""

    def __init__(self, main: gevent.Greenlet[..., Any]) -> None:
        self._main = main
        self._pid = 0
        self._pipe: tuple[int, int] | None = None

    def fork(self) -> None:
        """Fork; both sides return. In the child the main greenlet ends soon."""
        self._pipe = os.pipe()
        self._pid = os.fork()
        if not self._pid:  # pragma: no cover (where nobody counts)
            gevent.idle()
            self._main.kill()

    def leave(self, parent: int, report: str) -> None:
        """End this process if it is the child."""
        if os.getpid() != parent:
            self._end(report)  # pragma: no cover (where nobody counts)

    def _end(self, report: str) -> NoReturn:  # pragma: no cover
        assert self._pipe is not None
        os.write(self._pipe[1], report.encode()[:4000])
        os._exit(0)

    def answer(self) -> str:
        """What the child reported; empty: all was well, or there was no fork.

        May switch.
        """
        if self._pipe is None:
            return ""
        reading, writing = self._pipe
        close = get_original("os", "close")
        # gevent's would wait for the event loop.
        close(writing)
        os.waitpid(self._pid, 0)
        report = os.read(reading, 4000).decode()
        close(reading)
        return report


class _Teller(PoolListener):
    """Calls a function at one event; counts them all."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self._at = at
        self._act = act
        self.seen = 0
        #: false while the harness looks at the pool
        self.is_listening = True

    def _heard(self, *details: Any) -> None:
        if self.is_listening:
            self.seen += 1
            if self.seen == self._at:
                self._act()

    _any: Any = _heard
    opened = open_failed = paused = resumed = _any
    acquired = exhausted = released = closed = _any


def tell_everywhere(
    scenario: Callable[[PoolListener], tuple[Work, Sequence[Pool[Any]]]],
    act: Callable[[], object],
    *,
    most: int = 1000,
    patience: float = 10.0,
    expected: tuple[type[BaseException], ...] = (PoolError,),
) -> int:
    """How many events a scenario tells, after a listener did something at each.

    May switch.

    :param scenario: as for :func:`disturb_everywhere`; it is given the listener.
    :param act: called once in each run, at the 1st, 2nd, 3rd... event: it may raise
        anything, switch, or close a pool.
    :param expected: errors that the main greenlet may end with.
    :raises AssertionError: an invariant broke, or an error was not expected.
    """

    def run_to(point: int) -> bool:
        teller = _Teller(point, act)
        what = f"{_name(act)} at event {point}"
        run = Run(lambda: scenario(teller), patience, what)
        run.go(0, _leave_alone)
        teller.is_listening = False
        _expect(run, expected)
        run.ends_well(_look)
        return teller.seen >= point

    return count_points(run_to, most)


def exhaust_stack_everywhere(
    scenario: Scenario, *, most: int = 1000, patience: float = 10.0
) -> int:
    """At how many depths a scenario meets a RecursionError, after it met each.

    It is run with 1, 2, 3... frames of Python left, until they are enough.

    May switch.

    :raises AssertionError: an invariant broke, or another error came of it; the message
        says with how many frames left.
    """

    def run_to(spare: int) -> bool:
        what = f"{spare} frames left"
        run = Run(lambda: _deep(scenario, spare), patience, what)
        run.go(0, _leave_alone)
        _expect(run, (RecursionError,))
        run.ends_well(look_for_losses)
        return bool(run.outcome)

    return count_points(run_to, most)


def _leave_alone(victim: object) -> None:
    raise AssertionError("there is no switch number 0")  # pragma: no cover


def _deep(scenario: Scenario, spare: int) -> tuple[Work, Sequence[Pool[Any]]]:
    target, pools = scenario()

    def descend() -> None:
        frame, depth = sys._getframe(), 0
        while frame is not None:
            frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]
        _call_below(sys.getrecursionlimit() - depth - spare, target)

    return descend, pools


def _call_below(frames: int, work: Work) -> None:
    if frames > 0:
        _call_below(frames - 1, work)
    else:
        work()
