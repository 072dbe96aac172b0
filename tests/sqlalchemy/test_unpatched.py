"""Engines in a process that gevent has not patched."""

from __future__ import annotations

import pytest
from gevent import monkey

from geventpool import NotPatchedError, patching
from geventpool.sqlalchemy import GreenletPool
from geventpool.sqlalchemy.threaded import ThreadedPool, become_threaded_pool
from tests.peers import run_script

THREADS = """
import threading, warnings
warnings.simplefilter("ignore")
from sqlalchemy import create_engine, event, text
from geventpool.sqlalchemy import GreenletPool, reset_server_session
for resets in (False, True):
    options = {{"pool_reset_on_return": None}} if resets else {{}}
    engine = create_engine({url!r}, poolclass=GreenletPool, pool_size=2,
        max_overflow=0, pool_timeout=1e300, **options)
    if resets:
        reset_server_session(engine)
    seen = []
    def work():
        for _ in range(20):
            with engine.connect() as conn:
                conn.execute(text("SET @x=1")) if resets else None
                seen.append(conn.scalar(text("SELECT CONNECTION_ID()")))
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(len(seen), len(set(seen)) <= 2, type(engine.pool).__name__)
    engine.dispose()
    with engine.connect() as conn:
        print(conn.scalar(text("SELECT 1")))
    engine.dispose()
"""


FORK = """
import os, warnings
warnings.simplefilter("ignore")
from gevent import monkey
from sqlalchemy import create_engine, text
from geventpool.sqlalchemy import GreenletPool
engine = create_engine({url!r}, poolclass=GreenletPool, pool_size=2, max_overflow=0)
def number():
    with engine.connect() as conn:
        return conn.scalar(text("SELECT CONNECTION_ID()"))
mine = number()
with engine.connect():
    other = engine.connect()
    theirs = other.scalar(text("SELECT CONNECTION_ID()"))
child = os.fork()
if not child:
    {patch}
    assert engine.pool.stats().size == 0
    other.close()
    assert engine.pool.stats().size == 0
    with engine.connect() as conn:
        assert number() not in (mine, theirs)
        stats = engine.pool.stats()
        assert (stats.size, stats.idle) == (2, 1), stats
    print(type(engine.pool).__name__, flush=True)
    engine.dispose()
    os._exit(0)
print(os.waitpid(child, 0)[1], number() == mine, type(engine.pool).__name__)
assert other.scalar(text("SELECT CONNECTION_ID()")) == theirs
other.close()
engine.dispose()
"""


@pytest.fixture()
def unpatched(monkeypatch):
    """As in a process that gevent has not patched."""
    monkeypatch.setattr(monkey, "is_object_patched", lambda *name: False)
    monkeypatch.setattr(patching, "warn_once", lambda *text: None)


def test_threads_may_use_an_engine_where_nothing_is_patched(mysql_url):
    """A development server has threads, and no event loop."""
    assert run_script(THREADS.format(url=mysql_url)).split() == [
        *("120", "True", "ThreadedPool", "1"),
        *("120", "True", "ThreadedPool", "1"),
    ]


def test_it_is_a_queue_pool_there(unpatched, database):
    """With the same arguments; the object is the one that the engine has."""
    pool = GreenletPool(database, pool_size=1, max_overflow=1, use_lifo=True)
    core = pool.core
    first, second = pool.connect(), pool.connect()
    assert type(pool) is ThreadedPool and pool.core is core
    assert (pool.size(), pool.checkedout(), pool.overflow()) == (1, 2, 1)
    pool.transfer(first, None)
    first.close()
    stats = pool.stats()
    assert (stats.size, stats.idle, stats.in_use) == (2, 1, 1)
    assert stats.max_connections == 2
    assert stats == pool.core.stats(), "what metrics and status pages read"
    second.close()
    become_threaded_pool(pool)
    again = pool.recreate()
    assert type(again) is GreenletPool
    assert (again.size(), again._max_overflow, again.core.use_lifo) == (1, 1, True)
    pool.dispose()


@pytest.mark.parametrize(
    ("patch", "kind"),
    [("monkey.patch_all()", "GreenletPool"), ("pass", "ThreadedPool")],
    ids=["patched", "unpatched"],
)
def test_a_forked_process_has_connections_of_its_own(mysql_url, patch, kind):
    """Two processes that read from one connection get the replies of each other.

    A preloaded program may use an engine before gunicorn's workers patch.
    """
    said = run_script(FORK.format(url=mysql_url, patch=patch))
    assert said.split() == [kind, "0", "True", "ThreadedPool"]


def test_it_may_be_an_error(unpatched, database):
    """For programs that must not run like that."""
    pool = GreenletPool(database, unpatched="error")
    with pytest.raises(NotPatchedError, match="geventpool.sqlalchemy would block"):
        pool.connect()
    with pytest.raises(NotPatchedError):
        pool.recreate().connect()
    with pytest.raises(ValueError, match="unpatched must be 'stock' or 'error'"):
        GreenletPool(database, unpatched="ignore")
