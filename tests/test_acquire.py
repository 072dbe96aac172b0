"""Borrowing when there is something to lend: the fast path."""

from __future__ import annotations

import gevent
import pytest

from geventpool import Connector, Counters, Pool, PoolListener
from geventpool.testing import ScriptedConnector, check, switches


def make(connector: ScriptedConnector | None = None, **options):
    return Pool(connector or ScriptedConnector(), **options)


def warm(pool, number=1):
    """The pool, with so many idle connections."""
    lent = [pool.acquire() for _ in range(number)]
    for conn in lent:
        pool.release(conn)
    return pool


def test_a_connection_is_opened_only_when_somebody_asks():
    """A pool opens nothing of its own accord."""
    connector = ScriptedConnector()
    pool = make(connector)
    assert pool.size == 0 and not connector.calls
    with pool.connection() as conn:
        assert connector.opened == [conn]
        assert pool.size == 1


@pytest.mark.parametrize("listeners", [(), (PoolListener(),)], ids=["calm", "heard"])
def test_a_loan_of_an_idle_connection_never_switches(listeners):
    """Acquire and release of an idle connection do not switch, in either form."""
    pool = warm(make(listeners=listeners))
    with switches() as seen:
        conn = pool.acquire()
        pool.release(conn)
        with pool.connection() as again:
            pass
        pool.drop(pool.acquire(retry=3))
    assert conn is again
    assert not seen


def test_acquire_switches_at_one_point_only():
    """Opening for a caller costs that caller exactly one switch."""
    pool = make()
    with switches() as seen:
        pool.acquire()
    assert len(seen) == 1


def test_the_last_one_returned_is_the_first_one_lent():
    """A stack by default, so that the surplus ages."""
    pool = make()
    first, second = pool.acquire(), pool.acquire()
    pool.release(first)
    pool.release(second)
    assert [pool.acquire(), pool.acquire()] == [second, first]


def test_without_lifo_the_longest_idle_one_is_lent_first():
    """A line if asked for."""
    pool = make(lifo=False)
    first, second = pool.acquire(), pool.acquire()
    pool.release(first)
    pool.release(second)
    assert [pool.acquire(), pool.acquire()] == [first, second]


def test_an_unusable_idle_connection_is_replaced_within_the_same_acquire():
    """The borrower never sees a dead connection, and does not have to try again."""
    connector = ScriptedConnector()
    pool = warm(make(connector, max_connections=2), 2)
    for conn in connector.opened:
        conn.is_usable = False
    with pool.connection() as conn:
        assert conn.number == 3
    assert [conn.end for conn in connector.opened] == ["discarded", "discarded", None]
    check(pool)


def test_a_usable_one_is_found_behind_unusable_ones():
    """Broken idle connections cost the borrower no opening while a fit one is left."""
    connector = ScriptedConnector()
    pool = warm(make(connector), 3)
    dead = pool.idle_connections()[-1]
    dead.is_usable = False
    with switches() as seen:
        conn = pool.acquire()
    assert conn.is_usable and conn is not dead and not seen
    assert dead.end == "discarded"
    check(pool)


def test_a_connector_that_fails_to_answer_counts_as_no(caplog):
    """An exception from is_usable is logged, and the connection not lent."""

    class Confused(ScriptedConnector):
        def is_usable(self, conn):
            raise RuntimeError("confused")

    pool = warm(make(Confused()))
    with pool.connection() as conn:
        assert conn.number == 2
    assert "is_usable failed" in caplog.text


def test_a_new_connection_is_lent_without_a_further_look():
    """A server that accepts and hangs up is not dialled in a circle."""

    class Hopeless(ScriptedConnector):
        def is_usable(self, conn):
            return False

    connector = Hopeless()
    pool = make(connector)
    for number in (1, 2):
        with pool.connection() as conn:
            assert conn.number == number
    assert len(connector.opened) == 2


def test_a_connector_without_opinions_is_not_asked(monkeypatch):
    """Defaults that are not overridden cost no call."""
    asked = []
    for name in "is_usable", "needs_reset", "reset":
        monkeypatch.setattr(Connector, name, lambda *args: asked.append(args))

    class Plain(Connector):
        def open(self):
            return object()

        def close(self, conn):
            pass

    pool = warm(make(Plain()))  # type: ignore[arg-type]
    for _ in range(2):
        pool.release(pool.acquire())
        with pool.connection():
            pass
    assert pool.size == 1 and not asked


def test_a_factory_may_be_a_plain_callable():
    """A callable with options makes the connections."""

    class Thing:
        def __init__(self, colour):
            self.colour = colour

        def open(self):
            pass

        def close(self):
            pass

        def is_connected(self):
            return True

        def is_expired(self):
            return False

    pool = Pool(Thing, dict(colour="red"))
    with pool.connection() as conn:
        assert isinstance(conn, Thing) and conn.colour == "red"


def test_counters_tell_direct_loans_from_waited_ones():
    """An idle connection is lent after a wait of exactly zero."""
    counters = Counters()
    pool = warm(make(listeners=[counters]))
    with pool.connection():
        pass
    counts = pool.stats().totals
    assert (counts.acquired, counts.waited, counts.opened) == (2, 1, 1)
    assert counts.released == 2


def test_repr_tells_where_every_connection_is():
    """The repr is a summary one can assert on."""
    pool = make(name="redis", max_connections=10)
    conn = pool.acquire()
    pool.release(pool.acquire())
    assert repr(pool) == (
        "<Pool 'redis' 2/10: 1 idle, 1 in use, 0 opening, 0 closing, 0 waiting>"
    )
    assert pool.lent_connections() == [conn]
    assert len(pool.idle_connections()) == 1


def test_stats_are_a_snapshot():
    """What stats() returned does not change any more, and adds up."""
    pool = make(name="one")
    before = pool.stats()
    with pool.connection():
        stats = pool.stats()
    assert before.size == 0 and stats.in_use == stats.size == 1
    assert stats.totals is None
    with pytest.raises(AttributeError):
        stats.size = 3


def test_pools_without_a_name_are_numbered():
    """Every pool has a name for messages."""
    assert make().name != make().name


def test_loans_tell_who_holds_what_and_where_he_stands():
    """A report names the holder and the line it stands on now."""
    pool = make()

    def keep():
        with pool.connection():
            gevent.get_hub().switch()

    keeper = gevent.spawn(keep)
    gevent.idle()
    (loan,) = pool.loans()
    assert "keep" in loan.holder and "in keep" in loan.place
    keeper.kill()
    assert pool.loans() == []
