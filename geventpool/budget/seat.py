"""The part that one pool has in a budget: its leases, wishes and gifts.

Knows no pool: its clients say what they lack and what they could give.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakMethod, WeakSet

from geventpool.budget.client import Client, Standing
from geventpool.budget.sharing import (
    Part,
    in_force,
    may_take,
    next_waiter,
    to_give,
)
from geventpool.budget.table import Table
from geventpool.budget.wakeups import FREE, WISH, Mailbox

__all__ = ["Seat"]

log = logging.getLogger("geventpool")

#: Seconds between two attempts while something is lacking. Messages come sooner; this
#: finds the places of processes that died, which nobody announces.
RETRY = 0.05
#: Seconds for which a place that is given is reserved for the one that is told of it.
#: Else the giver would take it back before the other wakes.
MEANT = 0.05
#: Seconds before a place of a process that died is used. Its sockets may be closed
#: after its locks were released.
GRACE = 0.02


def _weakly(method: Callable[[], object]) -> Callable[[], None]:
    """A callback that does not keep the owner of *method* alive."""
    reference = WeakMethod(method)

    def call() -> None:
        found = reference()
        assert found is not None, "a seat stops its watcher before it goes"
        found()

    return call


#: Those that are open. A pool may be collected before the connections that it lent:
#: their places stay leased.
open_seats: set[Seat] = set()


def after_fork() -> None:
    """In a child: the leases and the files are the parent's."""
    for seat in list(open_seats):
        seat.close(forked=True)


def at_exit() -> None:
    """Remove the addresses. The places stay leased: connections may still be open."""
    for seat in list(open_seats):
        seat.close_mailbox()


class Seat:
    """The leases of one pool in one budget.

    :param path: of the budget's file.
    :param loop: the event loop; only its thread may call.
    :param name: what the other processes call this one.
    :raises BudgetError: the file cannot be used.
    """

    def __init__(
        self,
        path: str,
        total: int,
        reserve: int,
        loop: Any,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.total = total
        self.reserve = reserve
        self.clients: WeakSet[Client] = WeakSet()
        self.moved = 0
        self.recovered = 0
        self.loop = loop
        self._clock = clock
        self._name = name
        #: when this process last waited or used a place, and since when it waits
        self._wanted = self._since = -1e9
        #: runs while this process or another one waits
        self._timer: Any = None
        self._graces: set[Any] = set()
        #: the totals of others that were reported
        self._reported: set[int] = set()
        self._open()

    def join(self, client: Client) -> None:
        """Ask *client* from now on what it lacks and what it could give.

        The seat is closed when its clients are collected and it holds no place.
        """
        self.clients.add(client)
        weakref.finalize(client, self._left).atexit = False

    def _left(self) -> None:
        """In a finaliser."""
        try:
            self.loop.run_callback_threadsafe(self._close_if_unused)
        except Exception:
            # The loop is gone, and all connections with it.
            self.close()

    def _close_if_unused(self) -> None:
        if not self.clients and not self.table.held:
            self.close()

    def _open(self) -> None:
        self.pid = os.getpid()
        self.table = Table(self.path, self.pid)
        #: so many places are leased and used by no client
        self.ready = 0
        #: whether a wish failed, and nothing has changed since
        self.is_blocked = False
        #: the path leads to another file now
        self._replaced = False
        self._mailbox: Mailbox | None = None
        self._watcher: Any = None
        try:
            self._open_mailbox()
            parts = self._refresh()
            open_seats.add(self)
            # A smaller total is in force at once.
            self._send(parts, WISH)
        except BaseException:
            # Such as a RecursionError. libev ends a process whose watched descriptor
            # is closed, so the watcher is stopped before the mailbox can be collected.
            if self._watcher is not None:
                self._watcher.stop()
            self.close()
            raise

    def _open_mailbox(self) -> None:
        try:
            self._mailbox = Mailbox(self.path, self.table.row)
        except OSError as error:
            log.warning(
                "budget %s: waiters are not woken, but poll: %s", self.path, error
            )
        else:
            self._watcher = self.loop.io(self._mailbox.fileno(), 1, ref=False)
            self._watcher.start(_weakly(self._hear))

    def close(self, forked: bool = False) -> None:
        """Give up everything. Never switches.

        :param forked: the caller is a child, and this seat is its parent's.
        """
        for watcher in (self._timer, self._watcher, *self._graces):
            if watcher is not None:
                # The loop may be gone.
                with suppress(AttributeError, ValueError):
                    watcher.stop()
                    watcher.close()
        self._graces.clear()
        self.ready = 0
        self._timer = self._watcher = None
        self.close_mailbox(unlink=not forked)
        self.table.close()
        open_seats.discard(self)

    def close_mailbox(self, unlink: bool = True) -> None:
        """Hear no messages any more.

        :param unlink: remove the address, which is not a parent's.
        """
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None:
            mailbox.close(unlink)

    # Leasing.

    def lease(self, wish: bool = True) -> bool:
        """Take a place. Never switches.

        :param wish: if no place is free, others are told that it is wanted, and the
            clients are served when there may be one.
        """
        if os.getpid() != self.pid:
            # Forked by something that runs no hooks.
            self.close(forked=True)
        if self.table.fd < 0:
            self._open()
        if self.ready:
            # The row may not tell of this place yet.
            self._refresh()
            self.ready -= 1
            return True
        if wish and self.is_blocked:
            return False
        taken = False
        try:
            taken = self._take(wish)
        except OSError:
            log.exception("budget %s: no place could be leased", self.path)
        if wish and not taken:
            self.is_blocked = True
            self._keep_ticking()
        return taken

    def _take(self, wish: bool) -> bool:
        if not self._is_current():
            return False
        now = self._clock()
        is_new = self._since < 0
        # The wish is written first: who gives a place from now on reads it.
        parts = self._refresh()
        me = next(part for part in parts if part.row == self.table.row)
        total = in_force(self.total, parts)
        taken = None
        if may_take(me, parts, total, now):
            taken = self._take_place(total, now)
        if taken is None:
            if wish and is_new:
                self._send(parts, WISH)
            return False
        return taken

    def _take_place(self, total: int, now: float) -> bool | None:
        """Lock a place; False: it can be used later; None: there is none."""
        before = len(self.table.held)
        try:
            taken = self.table.take(total, now)
            if taken is None:
                return None
            self._refresh()
            if not taken[1]:
                return True
            timer = self.loop.timer(GRACE)
            self._graces.add(timer)
            timer.start(self._recover, timer)
        except BaseException:
            # Such as a RecursionError, which may be raised by any call of a function
            # of Python. The next who asks has the place, or it is given up.
            self.ready += len(self.table.held) - before
            self.loop.run_callback(self.give_ready)
            raise
        self.recovered += 1
        return False

    def _recover(self, timer: Any) -> None:
        """The place of a process that died can be used now. In the hub."""
        timer.close()
        self._graces.discard(timer)
        self.ready += 1
        self._serve()
        self.give_ready()

    def _is_current(self) -> bool:
        """Whether the path leads to the file that is open."""
        if not self._replaced and not self.table.is_current:
            self._replaced = True
            log.error(
                "budget %s: the file was removed or replaced; this process gives its "
                "places up and goes over to the new one. Until then processes have "
                "more places together than the total.",
                self.path,
            )
            self._keep_ticking()
        if self._replaced and not self.table.held:
            self.close()
            self._open()
        return not self._replaced

    def give_back(self) -> None:
        """Give up a place; its descriptor is closed. Never switches."""
        self.ready += 1
        self.give_ready()

    def give_ready(self) -> None:
        """Give up the places that no client uses. Never switches.

        If it fails, the rest of them stays ready.
        """
        if os.getpid() != self.pid or not self.table.held:
            # A child has the entries of its parent, and none of its leases.
            self.ready = 0
        while self.ready:
            self._give_one()
        self._close_if_unused()

    def _give_one(self) -> None:
        now = self._clock()
        parts = self.table.parts()
        waiter = next_waiter(parts, in_force(self.total, parts), now)
        self.is_blocked = False
        if waiter is None or waiter.row == self.table.row:
            self.table.give()
        else:
            self.table.give(waiter.row, now + MEANT)
        # From here on only hints are written.
        self.ready -= 1
        try:
            self._refresh()
            if waiter is not None and waiter.row == self.table.row:
                self.loop.run_callback(self._serve)
            elif waiter is not None:
                self._send([waiter], FREE)
        except BaseException:
            self.loop.run_callback(self._refresh)
            raise

    def give_back_soon(self) -> None:
        """Give up a place in a turn of the loop of its own. For finalisers."""
        try:
            self.loop.run_callback_threadsafe(self.give_back)
        except Exception:
            # The loop is gone, and all connections with it.
            self.close()

    # What the others know.

    def _lacking(self) -> int:
        return sum(client.lacking() for client in list(self.clients))

    def standings(self) -> list[tuple[Client, Standing]]:
        """What each client has."""
        return [(client, client.standing()) for client in list(self.clients)]

    def _refresh(self) -> list[Part]:
        """Write this process's row; return the rows of all."""
        self.table.write(self._own_part())
        parts = self.table.parts()
        for part in parts:
            if part.total != self.total and part.total not in self._reported:
                self._reported.add(part.total)
                log.warning(
                    "budget %s: the total is %d here and %d in process %d; the smaller "
                    "one is in force",
                    self.path,
                    self.total,
                    part.total,
                    part.pid,
                )
        return parts

    def _own_part(self) -> Part:
        now = self._clock()
        lacking = self._lacking()
        standings = [standing for _, standing in self.standings()]
        if lacking or any(standing.used for standing in standings):
            self._wanted = now
        if not lacking:
            self._since = -1.0
        elif self._since < 0:
            self._since = now
        return Part(
            row=self.table.row,
            pid=self.pid,
            total=self.total,
            reserve=self.reserve,
            held=len(self.table.held),
            idle=sum(standing.idle for standing in standings),
            leaving=sum(standing.leaving for standing in standings),
            waiting=lacking,
            since=self._since,
            written=now,
            wanted=self._wanted,
            moved=self.moved,
            recovered=self.recovered,
            name=self._name,
        )

    def _send(self, parts: list[Part], message: bytes) -> None:
        """Send to the processes of *parts*; a wish, to those that hold a place."""
        for part in parts:
            if part.row != self.table.row and self._mailbox is not None:
                if message is FREE or part.held:
                    self._mailbox.send(part.row, message)

    # What the others say. All in the hub.

    def _hear(self) -> None:
        assert self._mailbox is not None
        messages = self._mailbox.receive()
        if FREE in messages:
            self._serve()
        if WISH in messages and self.attend():
            self._keep_ticking()

    def _serve(self) -> None:
        self.is_blocked = False
        for client in list(self.clients):
            client.serve()

    @property
    def is_looking(self) -> bool:
        """Whether it looks at intervals, because this or another process waits."""
        return self._timer is not None

    def _keep_ticking(self) -> None:
        if self._timer is None:
            self._timer = self.loop.timer(RETRY, RETRY)
            self._timer.start(self._tick, update=True)

    def _tick(self) -> None:
        self._is_current()
        self._serve()
        goes_on = self.attend()
        if self._lacking():
            self._remind()
            goes_on = True
        if not goes_on and self._timer is not None:
            timer, self._timer = self._timer, None
            timer.close()

    def _remind(self) -> None:
        """Repeat the wish for those that have not looked for a while."""
        before = self._clock() - 2 * RETRY
        parts = self.table.parts()
        self._send([part for part in parts if part.written < before], WISH)

    def attend(self) -> bool:
        """Give what others need; return whether that has to be repeated."""
        for client in list(self.clients):
            client.settle()
        if self.ready:
            self.give_ready()
            if not self.clients and not self.table.held:
                # It is closed.
                return False
        parts = self._refresh()
        now = self._clock()
        total = in_force(self.total, parts)
        if self._replaced:
            total = 0
        surplus = sum(number >= total for number in self.table.held)
        if surplus:
            self._shrink(surplus)
            return True
        self._give(*to_give(self.table.row, parts, total, now), total)
        return any(part.lacks(now) for part in parts if part.row != self.table.row)

    def _give(self, idle: int, used: int, total: int) -> None:
        """Give so many, as far as the bound on moves allows."""
        standings = self.standings()
        promised = sum(standing.promised for _, standing in standings)
        more = max(0, used - promised)
        granted = 0
        if idle + more:
            granted = self.table.tokens(idle + more, total, self._clock())
        given = 0
        for client, _ in standings:
            given += client.give_idle(min(idle, granted) - given)
        more = min(more, granted - given)
        self.moved += given + more
        self._promise(standings, min(used, promised + more))

    def _shrink(self, surplus: int) -> None:
        """Part with places that no process may have, whether or not any waits."""
        standings = self.standings()
        surplus -= sum(standing.leaving for _, standing in standings)
        for client, _ in standings:
            surplus -= client.give_idle(max(0, surplus))
        self._promise(standings, max(0, surplus))

    def _promise(self, standings: list[tuple[Client, Standing]], number: int) -> None:
        for client, standing in standings:
            part = min(number, standing.used)
            client.give_used(part)
            number -= part
