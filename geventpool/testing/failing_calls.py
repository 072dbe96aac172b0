"""Runs a scenario repeatedly, each time with an error raised at another call."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from geventpool.errors import PoolError
from geventpool.pool import Pool
from geventpool.testing.interruption import (
    Run,
    Scenario,
    count_points,
    look_for_losses,
)

__all__ = ["fail_calls_everywhere"]

_PACKAGE = str(Path(__file__).parents[1])
_TESTING = str(Path(__file__).parent)

#: Python calls the end of a ``with`` block. If it cannot, no code of the block's own
#: can run any more.
_UNAVOIDABLE = ("__exit__",)


def fail_calls_everywhere(
    scenario: Scenario,
    *,
    error: type[BaseException] = MemoryError,
    skipped: Sequence[str] = _UNAVOIDABLE,
    after: bool = False,
    expected: tuple[type[BaseException], ...] = (PoolError,),
    most: int = 2000,
    patience: float = 10.0,
    afterwards: Callable[[], object] | None = None,
) -> int:
    """Raise *error* at each call that this package makes; return their number.

    The scenario is run repeatedly: the error is raised at the 1st, 2nd, 3rd... call of
    a function of this package, or of a built-in function by this package, in whatever
    greenlet, until a run has no such call. After each run the pool's state is checked
    and every place is lent once. May switch.

    :param error: a MemoryError can strike anywhere; so can what a signal handler
        raises.
    :param skipped: the names of functions whose own call succeeds.
    :param after: raise the error when the call has ended, as a signal handler can.
    :param expected: errors that the main greenlet may end with, beside *error*.
    :param afterwards: called after each run, before the pools are closed, for further
        checks.
    :raises AssertionError: an invariant is violated, or an error was not expected. The
        message names the call.
    """

    def run_to(point: int) -> bool:
        strike = _Strike(point, error, skipped, after)
        run = Run(lambda: strike.aimed(scenario), patience, f"call {point}")
        # The pools of earlier runs are collected between two runs.
        gc.disable()
        try:
            run.go(0, _leave_alone)
        except AssertionError as hung:
            raise AssertionError(f"{strike.place}: {hung}") from hung
        finally:
            sys.setprofile(None)
            gc.enable()
        run.story += f" {strike.place}"
        for raised in run.outcome:
            assert isinstance(raised, (error, *expected)), f"{run.story}: not expected"
        run.ends_well(look_for_losses, afterwards)
        return strike.seen >= point

    return count_points(run_to, most)


def _leave_alone(victim: object) -> None:
    raise AssertionError("there is no switch number 0")  # pragma: no cover


class _Strike:
    """Raises an error at one of the calls of a run."""

    def __init__(
        self,
        point: int,
        error: type[BaseException],
        skipped: Sequence[str],
        after: bool,
    ) -> None:
        self._point = point
        self._error = error
        self._skipped = skipped
        self._events = ("return", "c_return") if after else ("call", "c_call")
        self.seen = 0
        #: where it was raised
        self.place = ""

    def aimed(self, scenario: Scenario) -> tuple[Any, Sequence[Pool[Any]]]:
        """Return the scenario, with the calls of its work counted."""
        work, pools = scenario()

        def counted() -> None:
            sys.setprofile(self._profile)
            work()

        return counted, pools

    # Profiling is not traced by coverage.
    def _profile(  # pragma: no cover
        self, frame: FrameType, event: str, called: Any
    ) -> None:
        code = frame.f_code
        path = code.co_filename
        if event not in self._events or not path.startswith(_PACKAGE):
            return
        if path.startswith(_TESTING):
            return
        if event in ("call", "return") and code.co_name in self._skipped:
            return
        self.seen += 1
        if self.seen == self._point:
            name = getattr(called, "__name__", code.co_name)
            self.place = f"{name} at {path}:{frame.f_lineno}"
            raise self._error
