"""The greenlets that have borrowed without a ``with`` block, and what each holds.

When such a greenlet ends, its loans end. A greenlet is linked once, when it first
borrows, and not for each loan: linking and unlinking cost as much as a whole loan, and
unlinking takes time in proportion to the number of links.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import gevent
from greenlet import greenlet

__all__ = ["Holder", "Holders", "end_loan"]


class Holder(weakref.ref[greenlet]):
    """A greenlet that holds or held a loan; calling it returns the greenlet or None.

    It is a weak reference, so that the pool never keeps a greenlet alive that nothing
    else refers to. When that greenlet is collected, its loans end.
    """

    __slots__ = ("_others", "key", "loan")

    def __init__(self, target: greenlet, forgotten: Callable[[Any], None]) -> None:
        # weakref.ref.__new__ has taken the arguments. object.__init__ takes none.
        self.key = id(target)
        #: the loan that it began last and that has not ended
        self.loan: Any = None
        #: its other loans
        self._others: set[Any] = set()

    @property
    def has_loans(self) -> bool:
        """Whether it has any loan."""
        return self.loan is not None or bool(self._others)

    @property
    def loans(self) -> list[Any]:
        """All its loans; a copy."""
        return [*self._others, *([] if self.loan is None else [self.loan])]

    def set_loan(self, loan: Any) -> None:
        """Note that it began *loan*."""
        if self.loan is not None:
            self._others.add(self.loan)
        self.loan = loan

    def ended(self, loan: Any) -> None:
        """Note that *loan* has ended."""
        if self.loan is loan:
            self.loan = None
        else:
            self._others.discard(loan)


def end_loan(entry: Any) -> None:
    """Forget who holds an entry, and which waiter it was assigned to."""
    holder, entry.holder, entry.block, entry.waiter = entry.holder, None, None, None
    if isinstance(holder, Holder):
        holder.ended(entry)


class Holders:
    """The holders of one pool.

    :param died: a bound method that is called in the hub with the holder after its
        greenlet has ended. Only a weak reference to its object is kept.
    :param bool watch: False: the end of a greenlet ends no loan.
    """

    def __init__(self, died: Callable[[Holder], None], watch: bool = True) -> None:
        self._notify = weakref.WeakMethod(died)
        self._watch = watch
        #: the event loop of the borrowers; an unused pool must not create a hub
        self._loop: Any = None
        #: the holders by the id of their greenlet, which is unique while it exists
        self.by_id: dict[int, Holder] = {}

    def register(self, target: greenlet) -> Holder:
        """Return the holder of a greenlet, which is linked if it is new."""
        holder = self.by_id.get(id(target))
        if holder is None:
            self._loop = gevent.get_hub().loop
            holder = Holder(target, self._collected)
            # Raw greenlets and the main greenlet have no links. Their end is noticed by
            # the weak reference, and by sweep().
            rawlink = getattr(target, "rawlink", None)
            if self._watch and rawlink is not None:
                rawlink(self._ended)
            # The last step: a greenlet that could not be linked is not registered.
            self.by_id[id(target)] = holder
        return holder

    def sweep(self) -> None:
        """Report greenlets that have ended and have no links."""
        for holder in list(self.by_id.values()):
            target = holder()
            if target is not None and target.dead and self._forget(holder):
                self._report(holder)

    def clear(self) -> None:
        """Forget all holders, and remove the links. Never switches.

        Otherwise a greenlet that outlives many pools would collect links.
        """
        for holder in list(self.by_id.values()):
            target = holder()
            unlink = getattr(target, "unlink", None)
            if unlink is not None:
                unlink(self._ended)
        self.by_id.clear()

    def _ended(self, target: greenlet) -> None:
        holder = self.by_id.get(id(target))
        if holder is not None and self._forget(holder):
            self._report(holder)

    def _collected(self, holder: Holder) -> None:
        # A finalizer runs anywhere, so it only forgets and schedules. It must forget at
        # once, because the next greenlet may get the same address, and would be taken
        # for this one.
        if self._forget(holder):
            try:
                self._loop.run_callback_threadsafe(self._report, holder)
            except Exception:
                # The event loop has ended, and with it all borrowers. It is not logged,
                # because a finalizer must not take the lock of a logger.
                pass

    def _forget(self, holder: Holder) -> bool:
        """Forget *holder*. Return whether its end must be reported, once at most."""
        if self.by_id.get(holder.key) is not holder:
            return False
        del self.by_id[holder.key]
        return self._watch and holder.has_loans

    def _report(self, holder: Holder) -> None:
        notify = self._notify()
        if notify is not None:
            notify(holder)
