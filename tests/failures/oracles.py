"""What must hold during and after every storm, and in what words it did not.

Each is asked of the :class:`Outcome` of one storm over one contestant, and answers with
a few words, or with nothing if all is well.
"""

from __future__ import annotations

import contextlib
import gc
import linecache
import os
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
import psutil
from gevent.event import Event

from tests.failures.contestants import PATIENCE, Contestant
from tests.failures.load import SLACK, Account
from tests.failures.sites import LIMIT, Site
from tests.pauses import give_up_after, sample

#: Seconds for which a server's count above the limit may be the past's: it learns of
#: the end of a connection when it next looks at its socket, and a query that was killed
#: stays in its list until then.
LINGERING = 0.3

#: Seconds after the end of the trouble in which there may still be errors: dials that
#: began before must time out, and the pause after failed ones must pass.
RECOVERY = 2.0

#: Blocks of memory that may be new after a storm: caches of modules that were used for
#: the first time. A leaked connection of each request would be a multiple.
BLOCKS = 20_000


@dataclass
class Footprint:
    """What this process has of what leaks.

    Objects from before a ``gc.freeze()`` are not among it, and neither are the timers
    that greenlets, pools and other objects from before it start, each time anew.
    """

    descriptors: frozenset[int]
    greenlets: int
    timers: int
    blocks: int

    @classmethod
    def take(cls) -> Footprint:
        """The footprint now, after the garbage was collected."""
        # The lines of source that the tracebacks of errors have read.
        linecache.clearcache()
        gc.collect()
        timer: Any = type(gevent.get_hub().loop.timer(0))
        # By type(): a lazy object of Django sets itself up when asked for its class.
        objects = gc.get_objects()
        greenlets = [
            it
            for it in objects
            if issubclass(type(it), gevent.Greenlet) and not it.dead
        ]
        timers = [it for it in objects if issubclass(type(it), timer) and it.active]
        owners = {id(_owner(it)) for it in timers} - {id(None)}
        older = owners.difference(map(id, objects))
        return cls(
            open_descriptors(),
            len(greenlets),
            sum(id(_owner(it)) not in older for it in timers),
            sys.getallocatedblocks(),
        )

    @classmethod
    def settled(cls) -> Footprint:
        """The same, once it does not change by itself any more. May switch."""
        last = cls.take()
        for _ in range(100):
            sample()
            now = cls.take()
            if not now.left_since(last) and not last.left_since(now):
                break
            last = now
        return now

    def left_since(self, before: Footprint) -> dict[str, int]:
        """What is there now and was not then."""
        more = {
            "descriptors": len(self.descriptors) - len(before.descriptors),
            "greenlets": self.greenlets - before.greenlets,
            "timers": self.timers - before.timers,
            "blocks of memory": self.blocks - before.blocks - BLOCKS,
        }
        return {name: count for name, count in more.items() if count > 0}


def _owner(timer: Any) -> object:
    """What this timer wakes or calls; None: it cannot be told."""
    for each in timer.args:
        if isinstance(each, weakref.ref):
            return each()
        if isinstance(each, gevent.Greenlet):
            # A gevent.Timeout throws into it.
            return each
    caller = getattr(timer.callback, "__self__", None)
    return getattr(caller, "greenlet", caller)


def open_descriptors() -> frozenset[int]:
    """All of this process."""
    found = map(int, os.listdir("/proc/self/fd"))
    # That of the folder was open only while it was read.
    return frozenset(each for each in found if os.path.lexists(f"/proc/self/fd/{each}"))


def described(descriptors: frozenset[int]) -> list[str]:
    """What these are: files, and sockets with their addresses."""
    sockets = {
        each.fd: f"{each.laddr} -> {each.raddr} {each.status}"
        for each in psutil.Process().net_connections("all")
    }
    found = []
    for each in sorted(descriptors):
        with contextlib.suppress(FileNotFoundError):
            link = os.readlink(f"/proc/self/fd/{each}")
            found.append(f"{each}: {sockets.get(each, link)}")
    return found


@dataclass
class Outcome:
    """What one storm did to one contestant."""

    storm: str
    pool: str
    seed: int
    account: Account = field(default_factory=Account)
    #: sockets at once, as the server counted them, and as the proxy did
    seen_by_server: int = 0
    seen_by_proxy: int = 0
    #: how often the server was asked for its count and answered
    samples: int = 0
    #: places lent at once when it was over, and those on which the server answered
    places: int = 0
    answers: int = 0
    #: what was wrong in the pool's own books
    books: str | None = None
    #: what was left when the pool was closed and forgotten
    left: dict[str, int] = field(default_factory=dict)
    #: what the descriptors among it are
    descriptors: list[str] = field(default_factory=list)
    #: errors that the documentation does not name; None: nobody knows what it names
    undocumented: list[str] | None = None
    #: most dials at the same time, and in all
    most_dialling: int = 0
    dials: int = 0
    #: seconds of connecting that are no part of an acquire's patience
    connecting: float = 0.0
    #: does it let borrowers wait when all is in use?
    waits: bool = True
    #: so many dials at a time are promised; None: nothing is
    max_connecting: int | None = None
    #: so many connections are promised at most beside the places
    aside: int = 0
    #: are borrowers told to wait while the server is away?
    is_patient: bool = False
    #: why it came to no end
    given_up: str | None = None


def replies_reach_their_borrower(outcome: Outcome) -> str | None:
    """Every reply carries the tag of its question."""
    wrong = outcome.account.wrong
    return f"{len(wrong)} wrong replies" if wrong else None


def the_limit_holds(outcome: Outcome) -> str | None:
    """Neither server nor proxy ever sees more sockets than the pool promises to have.

    These are its places, and those that it has beside them by its documentation. The
    proxy's count is exact. The server's leaves out those whose client has gone, and
    is an offence only if it lasts for :data:`LINGERING` seconds.
    """
    most = max(outcome.seen_by_server, outcome.seen_by_proxy)
    allowed = LIMIT + outcome.aside
    return f"{most} sockets for {allowed}" if most > allowed else None


def no_place_is_lost(outcome: Outcome) -> str | None:
    """After the storm all places can be lent at once."""
    lost = LIMIT - outcome.places
    return f"{lost} of {LIMIT} places lost" if lost else None


def nothing_dead_is_lent(outcome: Outcome) -> str | None:
    """After the storm the server answers on every connection that is lent."""
    dead = outcome.places - outcome.answers
    return f"{dead} dead connections lent" if dead else None


def nobody_sleeps(outcome: Outcome) -> str | None:
    """Nobody is left waiting, and nobody waits beside an idle connection."""
    asleep = outcome.account.asleep
    return f"{asleep} asleep forever" if asleep else None


def the_books_are_in_order(outcome: Outcome) -> str | None:
    """The pool's own account of its connections adds up, during the storm and after."""
    return outcome.books


def deadlines_are_kept(outcome: Outcome) -> str | None:
    """An acquire ends within its time, :data:`load.SLACK`, and the delay of the loop.

    Where the borrower connects, as SQLAlchemy would have it, its timeout is
    for a place alone, and the driver's time-outs come on top.
    """
    waited = outcome.account.longest_wait
    if waited <= PATIENCE + outcome.connecting + SLACK + outcome.account.lag:
        return None
    return f"waited {waited:.1f} s of {PATIENCE:.0f}"


def patience_is_not_cut_short(outcome: Outcome) -> str | None:
    """Nobody is told that the pool is exhausted before its timeout."""
    account = outcome.account
    if not outcome.waits or account.soonest_refusal >= PATIENCE - SLACK:
        return None
    return f"refused after {account.soonest_refusal:.1f} s of {PATIENCE:.0f}"


def it_recovers(outcome: Outcome) -> str | None:
    """Soon after the end of the trouble nobody gets an error any more."""
    seconds = outcome.account.recovery
    return f"errors for {seconds:.1f} s more" if seconds > RECOVERY else None


def errors_are_documented(outcome: Outcome) -> str | None:
    """Every error that a borrower saw is one that the documentation names."""
    if not outcome.undocumented:
        return None
    return f"undocumented: {', '.join(outcome.undocumented)}"


def nothing_leaks(outcome: Outcome) -> str | None:
    """Descriptors, greenlets, timers and memory are back where they were."""
    if not outcome.left:
        return None
    return "left: " + ", ".join(f"{n} {name}" for name, n in outcome.left.items())


def dials_keep_their_limit(outcome: Outcome) -> str | None:
    """No more connections are opened at a time than ``max_connecting``.

    An attempt that the server keeps waiting does not count: it must delay no other.
    The connection that ends statements is opened beside the pool's.
    """
    most = outcome.most_dialling
    if outcome.max_connecting is None or most <= outcome.max_connecting + outcome.aside:
        return None
    return f"{most} dials at a time"


def patience_pays(outcome: Outcome) -> str | None:
    """A restart costs the waiters one request for each connection, at most."""
    failed = outcome.account.failed
    if not outcome.is_patient or outcome.storm != "restart" or failed <= LIMIT:
        return None
    return f"{failed} requests failed"


def it_comes_to_an_end(outcome: Outcome) -> str | None:
    """Nothing has to be given up."""
    return outcome.given_up


#: In the order of their gravity.
ORACLES: tuple[Callable[[Outcome], str | None], ...] = (
    it_comes_to_an_end,
    replies_reach_their_borrower,
    the_limit_holds,
    nobody_sleeps,
    no_place_is_lost,
    nothing_dead_is_lent,
    the_books_are_in_order,
    deadlines_are_kept,
    patience_is_not_cut_short,
    it_recovers,
    dials_keep_their_limit,
    patience_pays,
    errors_are_documented,
    nothing_leaks,
)


def broken(outcome: Outcome) -> list[str]:
    """What did not hold, the gravest first."""
    return [words for oracle in ORACLES if (words := oracle(outcome)) is not None]


class Watch:
    """Counts during a storm: the sockets the server sees, and what is in the books.

    :param site: whose server and proxy are asked.
    :param contestant: whose books are read.
    :param outcome: where the findings go.
    """

    def __init__(self, site: Site[Any], contestant: Contestant, outcome: Outcome):
        self._site = site
        self._contestant = contestant
        self._outcome = outcome
        self._over = False
        self._greenlets = [
            gevent.spawn(self._watch_proxy),
            gevent.spawn(self._watch_server),
        ]

    def stop(self) -> None:
        """Stop counting."""
        self._over = True
        gevent.joinall(self._greenlets, timeout=1)
        gevent.killall(self._greenlets)

    def _watch_proxy(self) -> None:
        outcome = self._outcome
        while not self._over:
            count = self._site.proxy.pool_sockets()
            outcome.seen_by_proxy = max(outcome.seen_by_proxy, count)
            outcome.books = outcome.books or self._contestant.books()
            sample(0.003)

    def _watch_server(self) -> None:
        outcome = self._outcome
        while not self._over:
            count = self._lasting_count()
            if count is not None:
                outcome.samples += 1
                outcome.seen_by_server = max(outcome.seen_by_server, count)
            sample(0.02)

    def _lasting_count(self) -> int | None:
        """The server's count, once it is within the limit or has lasted above it."""
        # From its first answer on: the server may have been stopped until then.
        deadline = None
        while (count := self._count()) is not None and count > LIMIT:
            now = time.monotonic()
            if deadline is None:
                deadline = now + LINGERING
            elif now > deadline:
                break
            sample()
        return count

    def _count(self) -> int | None:
        """The server's count without those whose client has gone; None: no answer."""
        proxy = self._site.proxy
        gone = proxy.orphans()
        # A server that is stopped does not count.
        with give_up_after(1.0):
            count = self._site.connections()
            return None if count is None else count - max(gone, proxy.orphans())
        return None


def lend_all(contestant: Contestant, outcome: Outcome) -> None:
    """Lend every place at the same time, and ask a question on each."""
    places: list[object] = []
    answers: list[bool] = []
    may_end = Event()

    def borrow(tag: str) -> None:
        conn = contestant.take()
        places.append(conn)
        try:
            answers.append(contestant.talk(conn, tag) == tag)
            may_end.wait()
        except BaseException:
            # Not before the others have theirs.
            may_end.wait()
            contestant.break_off(conn)
            raise
        contestant.give_back(conn)

    borrowers = [
        gevent.spawn(quietly, borrow, f"place-{number}") for number in range(LIMIT)
    ]
    deadline = time.monotonic() + PATIENCE
    while len(answers) < LIMIT and time.monotonic() < deadline:
        sample(0.005)
    outcome.places, outcome.answers = len(places), sum(answers)
    may_end.set()
    gevent.joinall(borrowers, timeout=1)
    gevent.killall(borrowers, timeout=1)


def quietly(function: Callable[..., object], *args: object) -> None:
    """Call it; what it raises is no news."""
    try:
        function(*args)
    except Exception:
        pass
