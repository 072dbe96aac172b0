"""Runs a scenario repeatedly, each time with a disturbance at another point.

:mod:`geventpool.testing.interruption` throws errors into a greenlet. Here a function is
called with the pools: in the hub, in another greenlet, in a native thread, in a
finalizer, or by a listener.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import gevent
from gevent import socket
from gevent.monkey import get_original
from gevent.os import fork_gevent

from geventpool._core.states import IN_USE
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

#: The most seconds that work in a native thread may take.
THREAD_TIME = 10.0

#: The report of a forked child whose checks have passed.
_WELL = "in order"


def in_hub(work: Work) -> None:
    """Call *work* directly. The caller is a callback of the event loop."""
    work()


def in_greenlet(work: Work) -> None:
    """Call *work* in a new greenlet, in the next turn of the loop. Never switches."""
    gevent.spawn(work)


def in_finaliser(work: Work) -> None:
    """Call *work* in a finalizer that the garbage collector runs. Never switches.

    :raises BaseException: raised by *work*.
    """
    raised: list[BaseException] = []
    doomed = _Doomed(work, raised)
    doomed.myself = doomed
    del doomed
    gc.collect()
    if raised:
        raise raised[0]


class _Doomed:
    """An object in a cycle, which only the garbage collector frees."""

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

    :raises BaseException: raised by *work*.
    :raises AssertionError: it does not end.
    """
    raised: list[BaseException] = []
    done = get_original("_thread", "allocate_lock")()
    done.acquire()

    def run() -> None:  # pragma: no cover (coverage does not trace this thread)
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


#: All places where a program may call functions that never switch.
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
    tries: int = 1,
) -> int:
    """Call *act* at each switch point of a scenario; return their number.

    Like :func:`~geventpool.testing.interrupt_everywhere`, but nothing is thrown. After
    each run the state of each pool is checked. Every place of an open pool is lent
    once; a closed pool must have no connection left. May switch.

    :param act: called once in each run, with each pool.
    :param place: calls *act* in the wanted place: one of ``PLACES``, or your own.
    :param expected: errors that the main greenlet may end with.
    :param int tries: so many runs without a next switch point end the test. With a real
        server above 1: a reply that is there already is read without a switch.
    :raises AssertionError: an invariant is violated, or an error was not expected. The
        message names the switch point.
    """

    def run_to(point: int) -> bool:
        run = Run(scenario, patience, f"{_name(act)} {_name(place)}")
        run.go(point, lambda victim: _at_all(run.pools, act, place), victims, later)
        _expect(run, expected)
        return run.ends_well(_look, afterwards)

    return count_points(run_to, most, tries)


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
    in_child: tuple[type[BaseException], ...] = (),
    afterwards: Callable[[], object] | None = None,
    tries: int = 1,
) -> int:
    """Fork at each switch point of a scenario; return their number.

    Parent and child both continue the scenario. In both, the state is checked and every
    place is lent once. In the child, the copy of the main greenlet runs until it waits
    for a greenlet that exists only in the parent. Then it is killed. May switch.

    :param in_child: further errors that the main greenlet may end with in the child,
        where the connections of the parent are closed.
    :param afterwards: called after each run, in both.
    :param int tries: as for :func:`disturb_everywhere`.
    :raises AssertionError: an invariant is violated, in the parent or in the child.
    """
    parent = os.getpid()

    def run_to(point: int) -> bool:
        run = Run(scenario, patience, "fork")
        child = _Child(run.main)
        try:
            run.go(point, lambda victim: gevent.spawn(child.fork), victims, later)
            in_both = (PoolError, gevent.GreenletExit)
            _expect(run, in_both if os.getpid() == parent else (*in_both, *in_child))
            more = run.ends_well(look_for_losses, afterwards)
        except BaseException as error:
            child.leave(parent, f"{type(error).__name__}: {error}")
            raise
        child.leave(parent, "")
        broken = child.answer(2 * patience)
        assert not broken, f"{run.story}: in the child: {broken}"
        return more

    return count_points(run_to, most, tries)


class _Child:
    """A forked child that reports its result to the parent."""

    def __init__(self, main: gevent.Greenlet[..., Any]) -> None:
        self._main = main
        self._pid = 0
        self._pipe: tuple[int, int] | None = None

    def fork(self) -> None:
        """Fork; return in both processes. In the child the main greenlet is killed."""
        self._pipe = os.pipe()
        self._pid = fork_gevent()
        if not self._pid:  # pragma: no cover (where nobody counts)
            gevent.idle()
            self._main.kill()

    def leave(self, parent: int, report: str) -> None:
        """End this process if it is the child."""
        if os.getpid() != parent:
            self._end(report)  # pragma: no cover (where nobody counts)

    def _end(self, report: str) -> NoReturn:  # pragma: no cover
        assert self._pipe is not None
        os.write(self._pipe[1], (report or _WELL).encode()[:4000])
        os._exit(0)

    def answer(self, patience: float) -> str:
        """Return the report of the child; empty: no failure, or no fork. May switch."""
        if self._pipe is None:
            return ""
        reading, writing = self._pipe
        # gevent's close() is done later: without an end, reading would not end.
        close = get_original("os", "close")
        close(writing)
        # A child may need a server that runs in this process.
        with gevent.Timeout(patience, AssertionError("no end of the child")):
            socket.wait_read(reading)
        report = os.read(reading, 4000).decode()
        close(reading)
        with suppress(ChildProcessError):
            # Unless the event loop has it already, which takes the status of each.
            get_original("os", "waitpid")(self._pid, 0)
        if report == _WELL:
            return ""
        # Without a report: the child was ended by a signal.
        return report or "it ended before its checks"


class _Teller(PoolListener):
    """Calls a function at one event, and counts all events."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self._at = at
        self._act = act
        self.seen = 0
        #: False while the harness checks the pool
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
    """Call *act* in a listener at each event of a scenario; return their number.

    May switch.

    :param scenario: as for :func:`disturb_everywhere`. It gets the listener.
    :param act: called once in each run, at the 1st, 2nd, 3rd... event. It may raise
        anything, switch, or close a pool.
    :param expected: errors that the main greenlet may end with.
    :raises AssertionError: an invariant is violated, or an error was not expected.
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
    scenario: Scenario,
    *,
    most: int = 1000,
    patience: float = 10.0,
    expected: tuple[type[BaseException], ...] = (RecursionError,),
    lives_on: bool = False,
    afterwards: Callable[[], object] | None = None,
) -> int:
    """Cause a RecursionError at each depth of a scenario; return their number.

    It is run with 1, 2, 3... frames of Python left, until these suffice. May switch.

    :param expected: errors that the main greenlet may end with. A driver may raise an
        error of its own from a RecursionError.
    :param lives_on: the main greenlet is a worker, which has run the scenario before
        and goes on after the error. What it still holds then is lost, because only its
        end would give it back.
    :param afterwards: called after each run, before the pools are closed.
    :raises AssertionError: an invariant is violated, or another error was raised. The
        message names the number of frames left.
    """

    def run_to(spare: int) -> bool:
        what = f"{spare} frames left"
        run = Run(lambda: _deep(scenario, spare, lives_on), patience, what)
        run.go(0, _leave_alone)
        _expect(run, expected)
        run.ends_well(look_for_losses, afterwards)
        return bool(run.outcome)

    return count_points(run_to, most)


def _leave_alone(victim: object) -> None:
    raise AssertionError("there is no switch number 0")  # pragma: no cover


def _deep(
    scenario: Scenario, spare: int, lives_on: bool
) -> tuple[Work, Sequence[Pool[Any]]]:
    target, pools = scenario()

    def go_on() -> None:
        if lives_on:
            target()
        try:
            descend()
        finally:
            if lives_on:
                gevent.idle()
                current = gevent.getcurrent()
                for entry in (e for p in pools for e in p._ledger.all_in(IN_USE)):
                    assert entry.holder is not None and entry.holder() is not current, (
                        "lost until the greenlet ends"
                    )

    def descend() -> None:
        frame, depth = sys._getframe(), 0
        while frame is not None:
            frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]
        _call_below(sys.getrecursionlimit() - depth - spare, target)

    return go_on, pools


def _call_below(frames: int, work: Work) -> None:
    if frames > 0:
        _call_below(frames - 1, work)
    else:
        work()
