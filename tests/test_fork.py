"""After a fork the child begins with nothing, and the parent notices nothing."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool import ConnectionNotFoundError, Pool
from geventpool.testing import Clock, ScriptedConnector, check, check_capacity
from tests import parts
from tests.event_loops import not_on_libuv
from tests.peers import Echo, run_script

#: The real thing: a process that forks, beside a server that lives elsewhere.
PREAMBLE = """
from gevent import monkey
monkey.patch_all()
import os, traceback
import gevent
from gevent.event import Event
from gevent.monkey import get_original
from gevent.os import fork_gevent as fork
from geventpool import *
from geventpool.testing import wait_until
from tests.pauses import time_for_mistakes, turns

# The patched fork() and waitpid() now and then miss a child that ends at once.
waitpid = get_original("os", "waitpid")

def ask(conn, question):
    conn.send(question)
    hear(conn, question)

def hear(conn, expected):
    answer = b""
    while len(answer) < len(expected):
        more = conn.recv()
        assert more, "the server hung up"
        answer += more
    assert answer == expected, answer

def in_child(work):
    pid = fork()
    if pid == 0:
        status = 1
        try:
            with gevent.Timeout(10):
                work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert waitpid(pid, 0)[1] == 0, "the child failed"

pool = Pool(TcpConnection, {options}, max_connections=3)
"""


def forking(peer: Any, script: str) -> None:
    """Run *script* after the preamble, with a pool of connections to *peer*."""
    preamble = PREAMBLE.replace("{options}", repr(peer.options))
    assert run_script(preamble + dedent(script)) == "done\n"
    peer.wait_open(0)


def test_the_child_has_connections_of_its_own() -> None:
    """It lends none of the parent's idle ones, which stay in order in the parent."""
    with Echo() as echo:
        forking(
            echo,
            """
            kept = [pool.acquire(), pool.acquire()]
            for conn in kept:
                pool.release(conn)

            def child():
                assert pool.size == 0, pool
                assert not any(conn.is_connected() for conn in kept)
                with pool.connection() as conn:
                    assert conn not in kept
                    ask(conn, b"child")
                assert repr(pool).endswith(
                    "1/3: 1 idle, 0 in use, 0 opening, 0 closing, 0 waiting>"
                ), pool

            in_child(child)
            for _ in range(2):
                with pool.connection() as conn:
                    assert conn in kept
                    ask(conn, b"parent")
            assert pool.size == 2
            in_child(child)
            pool.close()
            print("done")
            """,
        )
        assert echo.accepted == 4


def test_a_loan_stays_in_the_parent() -> None:
    """In the child its end is of no effect, and its descriptor is closed."""
    with Echo() as echo:
        forking(
            echo,
            """
            bare = pool.acquire()
            bare.send(b"question")

            def child():
                assert pool.lent_connections() == []
                assert not bare.is_connected()
                for end in pool.release, pool.drop:
                    try:
                        end(bare)
                    except ConnectionNotFoundError:
                        continue
                    raise AssertionError

            with pool.connection() as conn:
                conn.send(b"another question")
                pid = fork()
                if pid:
                    hear(conn, b"another question")
                else:
                    assert not conn.is_connected()
            if not pid:
                # The copied block has ended, without an effect.
                os._exit(0 if pool.size == 0 else 1)
            assert waitpid(pid, 0)[1] == 0
            in_child(child)
            assert pool.lent_connections() == [bare]
            pool.close(timeout=0)
            hear(bare, b"question")
            pool.release(bare)
            gevent.idle()
            print("done")
            """,
        )


def test_an_answer_under_way_reaches_the_parent() -> None:
    """A child that lives and ends takes nothing from the parent's conversations."""
    with Echo() as echo:
        forking(
            echo,
            """
            with pool.connection() as conn:
                conn.send(b"question")
                in_child(gevent.idle)
                hear(conn, b"question")
            pool.close()
            print("done")
            """,
        )


def test_a_dial_under_way_is_the_parents() -> None:
    """The child neither completes it nor counts it; the parent does."""
    with Echo() as echo:
        forking(
            echo,
            """
            connected, may_open = Event(), Event()

            class Slow(TcpConnection):
                def open(self):
                    super().open()
                    connected.set()
                    may_open.wait()

            pool = Pool(Slow, {options}, max_connections=1)
            seeker = gevent.spawn(pool.acquire, reclaim=False)
            connected.wait()

            def child():
                assert pool.size == 0, pool
                may_open.set()
                turns()
                assert pool.size == 0, pool
                assert seeker.value is None
                with pool.connection() as conn:
                    ask(conn, b"child")

            in_child(child)
            may_open.set()
            ask(seeker.get(), b"parent")
            print("done")
            """.replace("{options}", repr(echo.options)),
        )
        assert echo.accepted == 2


def test_who_waits_waits_in_the_parent() -> None:
    """What the child gives back goes to nobody of the parent's line."""
    with Echo() as echo:
        forking(
            echo,
            """
            served = []
            lent = [pool.acquire() for _ in range(3)]

            def wait():
                with pool.connection() as conn:
                    served.append(conn)
                    ask(conn, b"parent")

            waiter = gevent.spawn(wait)
            gevent.idle()
            assert pool.stats().waiting == 1

            def child():
                assert pool.stats().waiting == 0
                mine = [pool.acquire() for _ in range(3)]
                for conn in mine:
                    pool.release(conn)
                turns()
                assert served == [] and not waiter.dead
                assert pool.stats().idle == 3
                # The copy can be ended without harm.
                waiter.kill()
                assert pool.stats().idle == 3

            in_child(child)
            pool.release(lent[0])
            waiter.join()
            assert served == [lent[0]]
            pool.close(timeout=0)
            for conn in lent[1:]:
                pool.release(conn)
            gevent.idle()
            print("done")
            """,
        )
        assert echo.accepted == 6


def test_the_parents_reaper_does_not_work_in_the_child() -> None:
    """The child's own starts with its first connection."""
    with Echo() as echo:
        forking(
            echo,
            """
            looked = []

            class Watched(TcpConnection):
                def is_expired(self):
                    looked.append(os.getpid())
                    return False

            pool = Pool(Watched, {options}, 1, reap_interval=0.001)
            wait_until(lambda: looked)

            def child():
                del looked[:]
                time_for_mistakes()
                assert looked == [], "the parent's reaper is at work"
                with pool.connection() as conn:
                    ask(conn, b"child")
                del looked[:]
                wait_until(lambda: looked)

            in_child(child)
            del looked[:]
            wait_until(lambda: looked)
            pool.close()
            print("done")
            """.replace("{options}", repr(echo.options)),
        )


def test_a_child_of_a_child_begins_with_nothing_too() -> None:
    """Every generation has its own connections."""
    with Echo() as echo:
        forking(
            echo,
            """
            def use():
                with pool.connection() as conn:
                    ask(conn, str(os.getpid()).encode())

            def child():
                use()
                in_child(grandchild)
                use()

            def grandchild():
                assert pool.size == 0
                use()

            use()
            in_child(child)
            use()
            pool.close()
            print("done")
            """,
        )
        assert echo.accepted == 3


def test_copies_that_wait_on_a_descriptor_are_not_woken() -> None:
    """Their watchers belong to no socket: those of ``poll`` and of drivers in C.

    libev aborts at a watcher of a closed descriptor. It takes the null device for
    readable, so the copy would go on with the parent's work.
    """
    with Echo() as echo:
        forking(
            echo,
            """
            import select, socket
            from gevent.socket import wait_read

            class Driver:
                # Has a descriptor, and no socket that anybody could find.
                def __init__(self, host, port):
                    self.wire = socket.create_connection((host, port))
                    self.fileno = self.wire.fileno

            own = Pool(Driver, {options}, 3)
            bare, conn, woken = own.acquire(), pool.acquire(), []

            def read():
                wait_read(bare.fileno())
                woken.append("read")

            def poll():
                poller = select.poll()
                poller.register(conn.fileno(), select.POLLIN)
                poller.poll()
                woken.append("poll")

            waiters = [gevent.spawn(read), gevent.spawn(poll)]
            gevent.idle()

            def child():
                with own.connection(), pool.connection() as mine:
                    ask(mine, b"child")
                gevent.idle()
                assert woken == [], woken

            in_child(child)
            bare.wire.sendall(b"x")
            conn.send(b"x")
            gevent.joinall(waiters)
            assert sorted(woken) == ["poll", "read"]
            own.drop(bare)
            pool.drop(conn)
            own.close()
            pool.close()
            print("done")
            """.replace("{options}", repr(echo.options)),
        )


@not_on_libuv("gevent.os.waitpid() misses a child that ends before the loop has run")
def test_it_needs_no_patching() -> None:
    """``gevent.os.fork`` in an unpatched process is just as good."""
    with Echo() as echo:
        assert (
            run_script(
                dedent(f"""
                    import os
                    import gevent, gevent.os
                    from geventpool import *

                    pool = Pool(TcpConnection, {echo.options!r}, 1)
                    pid = gevent.os.fork()
                    with pool.connection() as conn:
                        conn.send(b"x")
                        assert conn.recv() == b"x"
                    if not pid:
                        os._exit(0)
                    # gevent has already heard of the child's end, if it was quick.
                    assert gevent.os.waitpid(pid, 0)[1] == 0
                    pool.close()
                    print("done")
                    """)
            )
            == "done\n"
        )
        assert echo.accepted == 2


# What the child does, told of a fork that has not taken place.


def test_no_goodbye_is_said_in_the_child() -> None:
    """A goodbye would end the session of the parent: copies are closed silently."""
    connector = ScriptedConnector(close=[Event()])
    pool = Pool(connector, max_connections=5)
    lent = [pool.acquire() for _ in range(3)]
    leaving, idle, kept = lent
    pool.release(leaving)
    pool.release(idle)
    pool.drop(leaving)
    gevent.idle()
    goodbyes = connector.calls.count(("close", leaving))
    parts.forked(pool)
    gevent.idle()
    assert [conn.end for conn in lent] == ["discarded"] * 3
    assert sum(verb == "close" for verb, _ in connector.calls) == goodbyes == 1
    with pytest.raises(ConnectionNotFoundError):
        pool.release(kept)
    check_capacity(pool)


def test_what_the_pool_was_at_is_forgotten_in_the_child() -> None:
    """Dials, checks, resets, and their borrowers."""
    work = Event()
    connector = ScriptedConnector(open=[None, None], ping=[work], reset=[work])
    pool = Pool(connector, max_connections=3, ping_interval=4)
    clock = Clock()
    clock.rule(pool)
    first, second = pool.acquire(), pool.acquire()
    pool.release(first)
    clock.advance(4)
    parts.lifecycle(pool).housekeeping.sweep()
    second.needs_reset = True
    pool.release(second)
    connector.script("open", work)
    seekers = [gevent.spawn(pool.acquire, timeout=5) for _ in range(3)]
    gevent.idle()
    stats = pool.stats()
    assert (stats.checking, stats.resetting, stats.opening) == (1, 1, 1)
    reaper = parts.reaper(pool)
    parts.forked(pool)
    work.set()
    gevent.idle()
    assert pool.size == 0 and not any(seeker.dead for seeker in seekers)
    assert reaper is not None and not reaper.is_alive
    # What was being opened has been let go of before it was open.
    assert connector.opened == [first, second] and connector.opening == 0
    assert [conn.end for conn in (first, second)] == ["discarded"] * 2
    gevent.killall(seekers)
    check_capacity(pool)


def test_a_block_that_was_copied_ends_without_an_effect() -> None:
    """Well or badly, for the child's pool knows nothing of it."""
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=1)
    with pool.connection():
        parts.forked(pool)
    assert pool.size == 0
    check(pool)
    with pytest.raises(KeyError), pool.connection():
        parts.forked(pool)
        raise KeyError
    assert pool.size == 0
    check(pool)


def test_a_holder_that_was_copied_dies_without_an_effect() -> None:
    """Nor does its death cost the child's pool a connection."""
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=1)
    holder = gevent.spawn(lambda: (pool.acquire(), Event().wait()))
    gevent.idle()
    parts.forked(pool)
    mine = pool.acquire()
    holder.kill()
    gevent.idle()
    assert mine.end is None and pool.lent_connections() == [mine]


def test_the_child_tells_the_time_as_the_parent_does() -> None:
    """A clock that a test has put in stays in."""
    pool = Pool(ScriptedConnector(), max_idle=10)
    clock = Clock()
    clock.rule(pool)
    parts.forked(pool)
    old = pool.acquire()
    pool.release(old)
    clock.advance(10)
    assert pool.acquire() is not old


def test_a_closed_pool_is_closed_in_the_child() -> None:
    """To be closed is for good."""
    pool = Pool(ScriptedConnector())
    pool.close()
    parts.forked(pool)
    assert pool.closed


def test_a_connection_that_cannot_be_let_go_spoils_nothing() -> None:
    """The next one is let go all the same."""
    connector = ScriptedConnector()
    pool = Pool(connector, initial_connections=2)
    first, second = pool.idle_connections()
    terminate = connector.terminate

    def fail(conn: Any) -> None:
        if conn is first:
            raise OSError
        terminate(conn)

    connector.terminate = fail  # type: ignore[method-assign]
    parts.forked(pool)
    assert second.end == "discarded" and pool.size == 0
    check_capacity(pool, timeout=5)
