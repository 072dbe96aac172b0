"""A forked child of the test, which answers and ends."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import gevent
from gevent.monkey import get_original
from gevent.os import fork_gevent

# gevent's own now and then misses a child that ends at once.
waitpid: Callable[[int, int], tuple[int, int]] = get_original("os", "waitpid")


def in_child(work: Callable[[], object]) -> str:
    """What *work* returns or raises in a forked child, as text.

    Meanwhile this process waits, and its greenlets do not run.
    """
    # Not a pipe, because gevent closes descriptors later than it is told.
    with tempfile.TemporaryFile() as answer:
        child = fork_gevent()
        if not child:
            try:
                with gevent.Timeout(20):
                    text = repr(work())
            # The child must say whatever happens to it, and never return to the tests.
            except BaseException as error:
                text = repr(error)
            os.write(answer.fileno(), text.encode())
            os._exit(0)
        waitpid(child, 0)
        answer.seek(0)
        return answer.read().decode()
