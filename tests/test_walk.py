"""The way of a connection from one borrower to the next is short."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import gevent

import geventpool
from geventpool import Connector, Pool
from tests.calls import called

PACKAGE = Path(geventpool.__file__).parent


class Plain(Connector[object]):
    """Connections that need neither a look nor a reset."""

    def open(self) -> object:
        return object()

    def close(self, conn: object) -> None:
        pass


def make() -> Pool[object]:
    """A pool of one connection that knows its borrower."""
    pool = Pool(Plain(), max_connections=1)
    pool.release(pool.acquire())
    return pool


def walk(work: Callable[[], object]) -> list[str]:
    """The files of the package that *work* enters, in order."""
    paths = [Path(code.co_filename) for code in called(work)]
    entered = [path.stem for path in paths if path.is_relative_to(PACKAGE)]
    return [name for name, _ in groupby(entered)]


def test_a_hand_over_enters_four_files_and_none_of_them_twice() -> None:
    """Who follows a connection to the next borrower never turns back."""
    pool = make()
    conn = pool.acquire()
    waiter = gevent.spawn(lambda: pool.release(pool.acquire()))
    gevent.idle()
    files = walk(lambda: pool.release(conn))
    assert files == ["pool", "returning", "ledger", "wait_timers"]
    waiter.join()
    assert pool.stats().idle == 1


def test_a_release_without_a_waiter_enters_no_other_file() -> None:
    """The connection is put into the queue where it is given back."""
    pool = make()
    conn = pool.acquire()
    assert walk(lambda: pool.release(conn)) == ["pool"]
    assert pool.stats().idle == 1
