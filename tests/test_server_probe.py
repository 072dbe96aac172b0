"""What tries a server that cannot be reached."""

from __future__ import annotations

import gevent

from geventpool.testing import ScriptedConnector
from tests import parts
from tests.test_grace import NEVER, down, outcome, reached


def is_timed(pool):
    """Whether the end of the grace has a timer."""
    return parts.opener(pool).search._timer is not None


def test_closing_in_the_grace_ends_its_timer():
    """Nothing of a closed pool is left in the loop."""
    pool, clock = reached(ScriptedConnector(), backoff=NEVER)
    parts.connector(pool).script("open", *down(3))
    waiter = gevent.spawn(outcome, pool)
    gevent.idle()
    assert is_timed(pool)
    pool.close()
    assert not is_timed(pool)
    waiter.join()
