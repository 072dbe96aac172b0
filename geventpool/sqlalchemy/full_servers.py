"""Servers that take no more connections: how a driver says so, and when to try again.

It knows errors and counts. It waits for nothing, and connects nothing.
"""

from __future__ import annotations

from typing import Any

from geventpool.dbapi import tells_full
from geventpool.extension import MYSQL_FULL

__all__ = ["FullServer", "is_refusal"]

#: A waiter pauses so often at most before the server is tried again.
MOST_PAUSES = 6


def is_refusal(error: BaseException, dialect: object) -> bool:
    """Whether *error* says that no more connections are possible now. Never switches.

    :param dialect: the name of the one that the error comes from.
    """
    code: Any = error.args[0] if error.args else None
    if dialect in ("mysql", "mariadb") and code in MYSQL_FULL:
        return True
    return tells_full(error)


class FullServer:
    """Whether a server is full, and whether the first in line may try it.

    They try it one at a time. Before each try the opener of the pool makes one
    pause for each refusal in a row, and its pauses grow.
    """

    def __init__(self) -> None:
        #: why the last connection was refused; None: one was made since
        self.refusal: Exception | None = None
        #: refusals in a row, and when the last one was
        self._refusals = 0
        self._last = float("-inf")
        #: pauses to make before the next try
        self._pauses = 0

    def refused(self, error: Exception, began: float, now: float) -> None:
        """Note a refusal.

        :param began: when the attempt began. Those that were under way at the same time
            count as one.
        """
        if began >= self._last:
            self._refusals = min(self._refusals + 1, MOST_PAUSES)
        self._last = now
        self._pauses = self._refusals
        self.refusal = error

    def had_room(self) -> None:
        """Note that a connection was made."""
        self.refusal = None
        self._refusals = 0

    def hold_back(self) -> Exception | None:
        """Return why the first in line must pause; None: it may try the server now."""
        if self.refusal is None:
            return None
        if self._pauses:
            self._pauses -= 1
            return self.refusal
        # The next one waits for the outcome.
        self._pauses = self._refusals
        return None
