"""What opens connections that nobody waits for."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from geventpool import Pool
from geventpool.testing import ScriptedConnector, pool_greenlets
from tests import parts


def will_try_again(pool):
    """Whether it will look for connections that nobody waits for."""
    return parts.opener(pool)._retry is not None


@pytest.mark.parametrize("end", ["close", "enough", "busy"])
def test_nothing_is_looked_for_that_is_not_missing(end):
    """The pool was closed meanwhile, or has what it needs, or is opening it."""
    connector = ScriptedConnector(open=[OSError("down"), Event()])
    pool = Pool(connector, min_connections=1, max_connecting=1)
    gevent.idle()
    stock = parts.lifecycle(pool)
    assert will_try_again(pool) and pool.size == 0
    if end == "close":
        pool.close()
        assert not will_try_again(pool)
        return
    if end == "enough":
        stock.ledger.min_connections = 0
    else:
        stock.opener.serve(retry=True)
    tried = len(connector.calls)
    stock.opener._retry_minimum()
    gevent.idle()
    assert len(connector.calls) == tried + (end == "busy")
    assert pool_greenlets(pool)
    pool.close(timeout=0)
