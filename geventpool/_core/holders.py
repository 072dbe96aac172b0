"""Whose death the pool must hear of: the greenlets that took a loan without a block.

Knows greenlets and, opaquely, what each of them holds. A greenlet is linked once, when
it first borrows, and not once a loan: linking and unlinking cost as much as a whole
loan, and to unlink from a greenlet with many links costs their number.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import gevent
from greenlet import greenlet

__all__ = ["Holder", "Holders", "end_loan"]


class Holder(weakref.ref[greenlet]):
    """A greenlet that holds, or held, a loan; calling it gives the greenlet or None.

    Weak, so that the pool never keeps alive a greenlet that nobody else remembers:
    its collection ends it, and its loan comes back.
    """

    __slots__ = ("_others", "key", "loan")

    def __init__(self, target: greenlet, forgotten: Callable[[Any], None]) -> None:
        # The arguments went to weakref's __new__; object's __init__ takes none.
        self.key = id(target)
        #: what it borrowed last and has not returned
        self.loan: Any = None
        #: what it holds beside that
        self._others: set[Any] = set()

    @property
    def has_loans(self) -> bool:
        """Does it hold anything?"""
        return self.loan is not None or bool(self._others)

    @property
    def loans(self) -> list[Any]:
        """What it holds; a copy."""
        return [*self._others, *([] if self.loan is None else [self.loan])]

    def set_loan(self, loan: Any) -> None:
        """It borrowed *loan*."""
        if self.loan is not None:
            self._others.add(self.loan)
        self.loan = loan

    def ended(self, loan: Any) -> None:
        """Its loan has ended."""
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

    :param died: called in the hub with the holder after its greenlet has ended. Its
        owner is not kept alive.
    :param bool watch: False: know them, but do not listen for their end.
    """

    def __init__(self, died: Callable[[Holder], None], watch: bool = True) -> None:
        self._notify = weakref.WeakMethod(died)
        self._watch = watch
        #: of the hub of those who borrow; a pool never used has touched no hub
        self._loop: Any = None
        #: by the id of the greenlet, which is its own as long as it lives
        self.by_id: dict[int, Holder] = {}

    def register(self, target: greenlet) -> Holder:
        """The holder of a greenlet; linked, if it is new here."""
        holder = self.by_id.get(id(target))
        if holder is None:
            self._loop = gevent.get_hub().loop
            holder = Holder(target, self._collected)
            # Raw greenlets and the main greenlet have no links: for them there is
            # the weak reference, and the look at `dead` in sweep().
            rawlink = getattr(target, "rawlink", None)
            if self._watch and rawlink is not None:
                rawlink(self._ended)
            # Last: one that could not be linked is not known.
            self.by_id[id(target)] = holder
        return holder

    def sweep(self) -> None:
        """Look for greenlets that ended without a link that could have told."""
        for holder in list(self.by_id.values()):
            target = holder()
            if target is not None and target.dead and self._forget(holder):
                self._report(holder)

    def clear(self) -> None:
        """Forget them all; a greenlet that outlives many pools must not collect links.

        Does not switch.
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
        # A finaliser: it runs wherever the collector does, so it only forgets and
        # schedules. To forget must not wait for the loop: the next greenlet may get
        # the same address, and would pass for this one.
        if self._forget(holder):
            try:
                self._loop.run_callback_threadsafe(self._report, holder)
            except Exception:
                # The loop is gone, and so is everybody who could use the place. Not
                # even a log may hear of it: a finaliser takes no lock.
                pass

    def _forget(self, holder: Holder) -> bool:
        """Is there something to report? Once at most, whatever comes first."""
        if self.by_id.get(holder.key) is not holder:
            return False
        del self.by_id[holder.key]
        return self._watch and holder.has_loans

    def _report(self, holder: Holder) -> None:
        notify = self._notify()
        if notify is not None:
            notify(holder)
