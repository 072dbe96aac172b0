"""The event loop that a pool belongs to: the same thread, and the same hub."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from textwrap import dedent

import gevent
import pytest
from gevent.monkey import get_original

from geventpool import Pool
from geventpool._core.deadlocks import waiting
from geventpool._core.home import Home, thread_of
from geventpool.testing import ScriptedConnector, check_capacity
from tests.event_loops import not_on_libuv
from tests.peers import Echo, run_script


def test_a_call_to_a_loop_that_is_gone_is_of_no_effect() -> None:
    """A finaliser has nobody to raise it to."""
    Home().call(print, "never")


def test_a_thread_is_known_by_its_main_greenlet() -> None:
    """Greenlets that have not started or have ended included."""
    made = gevent.Greenlet(int)
    main = thread_of(gevent.get_hub())
    assert thread_of(made) is main
    made.start()
    made.join()
    assert thread_of(made) is main


def test_a_thread_with_the_number_of_one_that_ended_is_another() -> None:
    """The system gives numbers again; the pool's loop went with its thread."""
    assert (
        run_script(
            dedent("""
            import threading
            from geventpool import Pool
            from geventpool.testing import ScriptedConnector

            def make():
                made.append(Pool(ScriptedConnector(), initial_connections=1))
                idents.append(threading.get_ident())

            def use():
                if threading.get_ident() != idents[0]:
                    return
                try:
                    made[0].acquire()
                except RuntimeError as error:
                    print("belongs to the event loop of another thread" in str(error))

            made, idents = [], []
            for work in [make, *[use] * 50]:
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
            print("done")
            """)
        ).replace("True\n", "")
        == "done\n"
    )


def test_a_pool_begins_with_nothing_when_its_hub_was_destroyed() -> None:
    """Its sockets belonged to the loop that is gone; its waiters never wake."""
    with Echo() as echo:
        script = dedent(f"""
            import gevent
            from geventpool import Pool, TcpConnection
            from geventpool._core.deadlocks import waiting
            from geventpool.testing import check, check_capacity

            pool = Pool(TcpConnection, {echo.options!r}, 1, max_connections=2,
                        min_connections=1, reap_interval=1)

            def ask(conn):
                conn.send(b"x")
                return conn.recv()

            def use():
                with pool.connection() as conn:
                    assert ask(conn) == b"x"
                    gevent.sleep(0)

            def round():
                gevent.joinall([gevent.spawn(use) for _ in range(6)], raise_error=True)

            round()
            lent = pool.acquire(), pool.acquire()
            stuck = gevent.spawn(pool.acquire)
            gevent.idle()
            assert pool.stats().waiting == 1
            gevent.get_hub().destroy(destroy_loop=True)
            round()
            assert not waiting
            check(pool)
            check_capacity(pool)
            pool.close()
            print("done")
            """)
        assert run_script(script) == "done\n"
        echo.wait_open(0)


def in_a_thread(work: Callable[[], object]) -> None:
    """Run *work* in a thread of the system, and raise what it raises."""
    errors: list[BaseException] = []
    done = get_original("_thread", "allocate_lock")()
    done.acquire()

    def run() -> None:
        # Only threads that the patched module starts are traced by themselves.
        sys.settrace(threading.gettrace())
        try:
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            done.release()

    get_original("_thread", "start_new_thread")(run, ())
    done.acquire()
    if errors:
        raise errors[0]


@not_on_libuv("gevent runs a destroyed loop to its end")
def test_waiters_of_a_destroyed_hub_are_forgotten() -> None:
    """They never run again, so they take no part in deadlocks of the new loop."""

    def work() -> None:
        pool = Pool(ScriptedConnector(), max_connections=1)
        pool.acquire()
        waiter = gevent.spawn(pool.acquire)
        gevent.idle()
        assert waiter in waiting
        gevent.get_hub().destroy(destroy_loop=True)
        pool.drain()
        assert waiter not in waiting
        assert not pool.size and not pool.stats().waiting
        check_capacity(pool)
        gevent.get_hub().destroy(destroy_loop=True)

    in_a_thread(work)


def test_the_settings_of_a_pool_are_changed_in_its_own_thread() -> None:
    """Closing connections wakes waiters, which is for their own event loop."""
    pool = Pool(ScriptedConnector())
    with pytest.raises(RuntimeError, match="event loop of another thread"):
        in_a_thread(pool.drain)
