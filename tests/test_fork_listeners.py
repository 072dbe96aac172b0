"""What is told of a fork, and may do then."""

from __future__ import annotations

import gc
import weakref

from gevent import socket

from geventpool import sockets
from geventpool.fork_listeners import ForkListeners
from tests.forks import in_child
from tests.peers import Echo, run_script


class Told:
    """A listener that counts how often it began anew."""

    begun = 0

    def forked(self) -> None:
        """Count."""
        self.begun += 1


FORKS = """
import os
from geventpool.fork_listeners import ForkListeners
class Told:
    begun = 0
    def forked(self):
        self.begun += 1
listeners, listener = ForkListeners(), Told()
listeners.add(listener)
def fork_twice(generation):
    print(listener.begun, flush=True)
    child = os.fork() if generation < 2 else None
    if child == 0:
        fork_twice(generation + 1)
        os._exit(0)
    if child is not None:
        os.waitpid(child, 0)
        print(listener.begun, flush=True)
fork_twice(0)
"""


def test_each_listener_begins_anew_in_each_forked_child() -> None:
    """A child that has used it may fork again. The parent keeps what it has."""
    assert run_script(FORKS).split() == ["0", "1", "2", "1", "0"]


def test_a_discarded_listener_is_not_told() -> None:
    """It may have become a pool that has no such method."""
    listeners, listener = ForkListeners(), Told()
    listeners.add(listener)
    listeners.discard(listener)
    assert in_child(lambda: listener.begun) == "0"


def test_a_listener_may_discard_itself_when_it_is_told() -> None:
    """The others are told nevertheless."""
    listeners, others = ForkListeners(), [Told(), Told()]

    class Ending(Told):
        def forked(self) -> None:
            listeners.discard(self)
            super().forked()

    ending = Ending()
    for listener in (others[0], ending, others[1]):
        listeners.add(listener)
    told = in_child(lambda: ([each.begun for each in others], ending.begun))
    assert told == "([1, 1], 1)"


def test_a_listener_that_nobody_uses_is_collected() -> None:
    """Tests and reloaded programs make many."""
    listeners, listener = ForkListeners(), Told()
    listeners.add(listener)
    gone = weakref.ref(listener)
    del listener
    gc.collect()
    assert gone() is None


def test_what_a_child_closes_stays_open_in_the_parent() -> None:
    """Otherwise the parent's close would reset the connection, too."""

    class Aborting(Told):
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def forked(self) -> None:
            sockets.abort(self.sock)

    listeners = ForkListeners()
    with Echo() as echo, socket.create_connection((echo.host, echo.port)) as sock:
        listener = Aborting(sock)
        listeners.add(listener)
        before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        assert in_child(sock.fileno) == "-1"
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == before
        sock.sendall(b"still here")
        assert sock.recv(10) == b"still here"
