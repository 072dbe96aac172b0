"""Connections that are held while their holder waits for something else.

A holder that waits for another service, a lock or a pause is what exhausts a pool in
practice, and a limit of time cannot tell it from a slow query. So while greenlets wait
for a connection, samples of the holders are taken: is the lent socket waited for, or is
it idle? The samples are added up by the line that borrowed.

Nothing here switches.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

from geventpool._core.borrow_sites import BorrowSites, Site, position
from geventpool._core.ledger import Entry, Ledger, anyone
from geventpool._core.reports import IdleHold
from geventpool._core.states import IN_USE
from geventpool.sockets import find_socket

__all__ = ["IdleHolds"]

#: So many holders are looked at each time.
LOOKED_AT = 16
#: So many lines are remembered.
SITES = 256
#: A line is reported from so many samples on, if at least this share of them was idle.
ENOUGH = 10
SHARE = 0.5
#: The worst line is looked for after so many turns.
TURNS = 8
#: Samples of one line beyond which the older ones count half.
MANY = 4096


class _Tally:
    """The samples of one line."""

    __slots__ = ("all", "idle", "places")

    def __init__(self) -> None:
        self.all = 0
        self.idle = 0
        self.places: Counter[Site] = Counter()

    def add(self, place: Site | None) -> None:
        """Count one sample; *place*: where the holder waits beside an idle socket."""
        if self.all >= MANY:
            self.all //= 2
            self.idle //= 2
            self.places = Counter(
                {site: count // 2 for site, count in self.places.most_common(8)}
            )
        self.all += 1
        if place is not None:
            self.idle += 1
            self.places[place] += 1


class IdleHolds:
    """The samples of one pool.

    :param sites: knows where loans were borrowed.
    """

    def __init__(self, ledger: Ledger[Any], sites: BorrowSites) -> None:
        self._ledger = ledger
        self._sites = sites
        self._tallies: dict[Site, _Tally] = {}
        #: where the next sample begins among the entries
        self._start = 0
        self._turns = 0
        #: the worst line a short time ago, for the texts of refusals
        self.worst: IdleHold | None = None

    def sample(self) -> None:
        """Look at some of the holders. In the hub, so all of them are suspended."""
        entries = self._ledger.entries
        if self._start >= len(entries):
            self._start = 0
        for entry in islice(entries.values(), self._start, self._start + LOOKED_AT):
            self._look_at(entry)
        self._start += LOOKED_AT
        self._turns += 1
        if self._turns % TURNS == 0:
            self.worst = next(iter(self.report(1)), None)
        # The lines that borrow now are those that matter.
        self._sites.want()

    def _look_at(self, entry: Entry[Any]) -> None:
        if entry.state is not IN_USE or entry.holder in (None, anyone):
            return
        assert entry.holder is not None
        holder = entry.holder()
        # One that was handed a connection and has not run yet waits no more.
        if holder is None or entry.waiter is not None or holder.gr_frame is None:
            return
        is_used = is_awaited(entry.conn)
        if is_used is None:
            return
        place = _waits_at(holder)
        site = self._sites.of(entry) or place
        tally = self._tallies.get(site)
        if tally is None:
            if len(self._tallies) >= SITES:
                return
            tally = self._tallies[site] = _Tally()
        tally.add(None if is_used else place)

    def report(self, most: int | None = None) -> list[IdleHold]:
        """The lines that hold connections while they are idle, the worst first.

        :param most: so many of them; None: all.
        """
        found = [
            IdleHold(
                str(site),
                str(tally.places.most_common(1)[0][0]),
                tally.idle / tally.all,
                tally.all,
            )
            for site, tally in self._tallies.items()
            if tally.all >= ENOUGH and tally.idle >= SHARE * tally.all
        ]
        found.sort(key=lambda hold: -hold.share * hold.samples)
        return found[:most]


def _waits_at(holder: Any) -> Site:
    innermost = holder.gr_frame
    frame = position(innermost) or innermost
    return Site(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def is_awaited(conn: Any) -> bool | None:
    """Whether a greenlet waits for the socket of a connection; None: it is not known.

    Never switches.
    """
    # The record of SQLAlchemy has the driver's connection.
    found = find_socket(conn) or find_socket(getattr(conn, "dbapi_connection", None))
    reader = getattr(found, "_read_event", None)
    writer = getattr(found, "_write_event", None)
    if reader is None or writer is None:
        return None
    return bool(reader.active or writer.active)
