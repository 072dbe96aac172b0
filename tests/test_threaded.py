"""The pools for threads of an adapter, and what a fork does to them."""

from __future__ import annotations

import gc
import weakref

from gevent import socket

from geventpool import sockets
from geventpool.threaded import ThreadedPools
from tests.forks import in_child
from tests.peers import Echo, run_script


class Told:
    """A pool that counts how often it began anew."""

    begun = 0

    def forked(self) -> None:
        """Count."""
        self.begun += 1


FORKS = """
import os
from geventpool.threaded import ThreadedPools
class Pool:
    begun = 0
    def forked(self):
        self.begun += 1
pools, pool = ThreadedPools(), Pool()
pools.add(pool)
def fork_twice(generation):
    print(pool.begun, flush=True)
    child = os.fork() if generation < 2 else None
    if child == 0:
        fork_twice(generation + 1)
        os._exit(0)
    if child is not None:
        os.waitpid(child, 0)
        print(pool.begun, flush=True)
fork_twice(0)
"""


def test_each_pool_begins_anew_in_each_forked_child() -> None:
    """A child that has used it may fork again. The parent keeps what it has."""
    assert run_script(FORKS).split() == ["0", "1", "2", "1", "0"]


def test_a_discarded_pool_is_not_told() -> None:
    """It may have become a pool that has no such method."""
    pools, pool = ThreadedPools(), Told()
    pools.add(pool)
    pools.discard(pool)
    assert in_child(lambda: pool.begun) == "0"


def test_a_pool_may_discard_itself_when_it_is_told() -> None:
    """The others are told nevertheless."""
    pools, others = ThreadedPools(), [Told(), Told()]

    class Ending(Told):
        def forked(self) -> None:
            pools.discard(self)
            super().forked()

    ending = Ending()
    for pool in (others[0], ending, others[1]):
        pools.add(pool)
    told = in_child(lambda: ([each.begun for each in others], ending.begun))
    assert told == "([1, 1], 1)"


def test_a_pool_that_nobody_uses_is_collected() -> None:
    """Tests and reloaded programs make many."""
    pools, pool = ThreadedPools(), Told()
    pools.add(pool)
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None


def test_what_a_child_closes_stays_open_in_the_parent() -> None:
    """Otherwise the parent's close would reset the connection, too."""

    class Aborting(Told):
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def forked(self) -> None:
            sockets.abort(self.sock)

    pools = ThreadedPools()
    with Echo() as echo, socket.create_connection((echo.host, echo.port)) as sock:
        pool = Aborting(sock)
        pools.add(pool)
        before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        assert in_child(sock.fileno) == "-1"
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == before
        sock.sendall(b"still here")
        assert sock.recv(10) == b"still here"


def test_a_child_does_not_wait_for_a_thread_of_the_parent() -> None:
    """The thread that makes a pool at the fork does not exist in the child."""
    pools = ThreadedPools()
    with pools.making:
        assert in_child(lambda: pools.making.acquire(blocking=False)) == "True"
        assert not pools.making.acquire(blocking=False)
