"""The loan of a connection that is shared, until its next owner has it.

A signal handler can raise between any two steps, so each of them can be done again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gevent import getcurrent
from gevent.event import AsyncResult

__all__ = ["Lender", "Parting"]


class Lender(Protocol):
    """What ends the loans of connections."""

    def give_back(self, conn: Any) -> None:
        """Give back a connection that is in step and not used any more.

        Never switches.
        """

    def drop(self, conn: Any, error: BaseException | None) -> None:
        """Close a connection, unless that is done. Never switches.

        :param error: why it has ended; None: not because it was lost.
        """

    def hand_over(self, conn: Any, greenlet: Any) -> bool:
        """Make *greenlet* the holder of the loan. Never switches.

        :return: False: the connection was closed.
        """

    def end_torn(self, conn: Any, holder: object) -> None:
        """Close a connection, if *holder* still has it on loan. Never switches."""


class Parting:
    """The loan of a connection that is shared, and what becomes of it.

    :param lender: lends the connections.
    :param conn: on loan to the calling greenlet.
    """

    def __init__(self, lender: Lender, conn: Any) -> None:
        self.conn = conn
        #: whether it will be closed
        self.is_spoiled = False
        #: an ``AsyncResult`` of the greenlet that gets it when it is quiet; None: none
        self.taker: Any = None
        self._taking: Any = None
        self._lender = lender
        # No weak reference, so that this loan can be told from any later one.
        self._holder = getcurrent()
        self._has_begun = False

    def take(self, renew: Callable[[], object]) -> Any:
        """Lend the connection to this greenlet alone, when all calls are answered.

        May switch.

        :param renew: lets the connection be given up.
        :return: the connection; None: it was lost.
        """
        self._taking = getcurrent()
        taker = self.taker = AsyncResult()
        try:
            renew()
            return taker.get()
        except BaseException:
            self.taker = None
            if taker.ready() and taker.value is not None:
                self._lender.give_back(taker.value)
            raise

    def part(self, error: BaseException | None) -> None:
        """Close the connection, or give it back or to its taker. Never switches.

        :param error: why it was lost; None: it is quiet.
        """
        taker = self.taker
        if error is not None or self.is_spoiled:
            self._lender.drop(self.conn, error)
        elif self._has_begun:
            # It is not known whether the loan has ended, and who has it.
            self._lender.end_torn(self.conn, self._holder)
            if taker is not None and not taker.ready():
                self._lender.end_torn(self.conn, self._taking)
        else:
            self._has_begun = True
            if taker is None:
                self._lender.give_back(self.conn)
            elif self._lender.hand_over(self.conn, self._taking):
                taker.set(self.conn)
        if taker is not None:
            taker.set(taker.value if taker.ready() else None)
