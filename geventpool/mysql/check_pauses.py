"""The pauses of a borrower whose connections fail the pool's check."""

from __future__ import annotations

from geventpool.policies import Backoff

__all__ = ["CheckPauses"]

_BACKOFF = Backoff()


class CheckPauses:
    """The pauses of one borrower between connections that fail the check.

    A check that no connection passes would otherwise flood the server with logins.
    """

    def __init__(self) -> None:
        self._opened = 0

    def after_failure(self, idle: int, left: float | None) -> float:
        """Return the seconds to pause before another connection is checked.

        Idle connections may all be stale, and are checked at once. So is the first one
        that has to be opened. Never switches.

        :param idle: how many connections are idle.
        :param left: the time that the borrower has left; None: no limit.
        """
        if idle:
            return 0.0
        self._opened += 1
        if self._opened == 1:
            return 0.0
        pause = _BACKOFF.delay(self._opened - 2)
        return pause if left is None else max(0.0, min(pause, left))
