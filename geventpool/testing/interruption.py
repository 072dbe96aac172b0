"""Run a scenario again and again, each time interrupted at another switch point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


#: One thing that is thrown, or several that are thrown together.
Interruption: TypeAlias = "type[BaseException] | tuple[type[BaseException], ...]"


def interrupt_everywhere(
    scenario: Callable[[], tuple[Callable[[], object], Sequence[Pool[Any]]]],
    *,
    errors: Sequence[Interruption] = INTERRUPTIONS,
    victims: Callable[[greenlet.greenlet], bool] | None = None,
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

    :param scenario: makes everything anew; gives what the main greenlet shall do, and
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
        instance, that the next borrower gets an answer of his own.
    :raises AssertionError: an invariant broke; the message says where.
    """
    points = 0
    for error in errors:
        blows = error if isinstance(error, tuple) else (error,)
        for point in range(1, most):
            if not _interrupt(
                scenario, blows, point, victims, later, patience, afterwards
            ):
                points = max(points, point - 1)
                break
        else:
            raise AssertionError(f"no end after {most} switch points")
    return points


def _interrupt(
    scenario: Callable[[], tuple[Callable[[], object], Sequence[Pool[Any]]]],
    errors: tuple[type[BaseException], ...],
    point: int,
    victims: Callable[[greenlet.greenlet], bool] | None,
    later: int,
    patience: float,
    afterwards: Callable[[], object] | None,
) -> bool:
    target, pools = scenario()
    outcome: list[BaseException] = []

    def run() -> None:
        # Whatever is thrown ends here; the hub prints nothing.
        try:
            target()
        except BaseException as raised:
            _forget_frames(raised)
            outcome.append(raised)

    main = gevent.Greenlet(run)
    seen = 0

    # Coverage is not traced within greenlet's own tracing.
    def trace(event: str, parties: Any) -> None:  # pragma: no cover
        nonlocal seen
        # Thrown when the victim is entered, it strikes where that is left next.
        victim = parties[1] if later < 0 else parties[0]
        if victim is main if victims is None else victims(victim):
            seen += 1
            if seen == point:
                _throw_later(victim, errors, later)

    with tracing(trace):
        main.start()
        gevent.joinall([main], timeout=patience)
        # The pool's own greenlets go on with what the main greenlet has left to them.
        gevent.idle()
    names = " and ".join(error.__name__ for error in errors)
    story = f"{names} at switch {point}, {later} callbacks later: {outcome}"
    assert main.dead, f"never ended: {story}"
    try:
        for pool in pools:
            check(pool)
            check_capacity(pool, patience)
        if afterwards is not None:
            with gevent.Timeout(patience, AssertionError("no end of what comes after")):
                afterwards()
    except AssertionError as broken:
        raise AssertionError(f"{story}: {broken}") from broken
    finally:
        for pool in pools:
            pool.close(timeout=0)
    return seen >= point


def _forget_frames(error: BaseException | None) -> None:
    # What its frames hold gives back what it holds when it goes.
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def _throw_later(
    victim: Any, errors: tuple[type[BaseException], ...], later: int
) -> None:
    loop = gevent.get_hub().loop
    if later > 0:
        loop.run_callback(_throw_later, victim, errors, later - 1)
    else:
        loop.run_callback(_throw, victim, errors)


def _throw(victim: Any, errors: tuple[type[BaseException], ...]) -> None:
    for error in errors:
        if not victim.dead:
            victim.throw(error())
