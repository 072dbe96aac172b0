"""A refusal costs little, and says later what was true at its moment."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool import Pool, PoolExhaustedError, TooManyWaitingError
from geventpool._core import refusals as module
from geventpool.testing import ScriptedConnector
from tests import parts
from tests.pauses import hang


def refused(pool: Pool[Any]) -> PoolExhaustedError:
    """The error that a caller gets who does not wait."""
    with pytest.raises(PoolExhaustedError) as caught:
        pool.acquire(timeout=0)
    return caught.value


def test_a_refusal_tells_the_truth_of_its_moment() -> None:
    """Also if it is read when the holders have gone."""
    pool = Pool(ScriptedConnector(), max_connections=1, name="p")
    done = Event()

    def hold(password: str) -> None:
        with pool.connection():
            done.wait()

    holder = gevent.spawn(hold, "hunter2")
    gevent.idle()
    error = refused(pool)
    done.set()
    holder.join()
    text = str(error)
    assert "1 in use" in text and ": hold> for" in text and " in hold" in text
    assert "hunter2" not in text
    assert str(error) == text and repr(error) == f"PoolExhaustedError({text!r})"
    sent = pickle.loads(pickle.dumps(error))
    for copied in copy.copy(error), copy.deepcopy(error), sent:
        assert type(copied) is PoolExhaustedError and str(copied) == text


def test_the_cost_of_a_refusal_does_not_depend_on_the_size_of_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is how load is shed: no more than a few loans are looked at."""
    seen = []

    class Counted(module.Sighting):  # type: ignore[name-defined]
        def __init__(self, entry: Any, now: float) -> None:
            seen.append(entry)
            super().__init__(entry, now)

    monkeypatch.setattr(module, "Sighting", Counted)
    pool = Pool(ScriptedConnector(), max_connections=100, max_waiting=0)
    parts.line(pool).max_waiting = None
    lent = [pool.acquire() for _ in range(100)]
    parts.line(pool).max_waiting = 0
    with pytest.raises(TooManyWaitingError) as caught:
        pool.acquire()
    assert len(seen) == str(caught.value).count("held by") == module.NAMED
    for conn in lent:
        pool.release(conn)


class Shy:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError


def test_what_cannot_be_shown_spoils_no_refusal() -> None:
    """A connection of unknown kind, or an argument of somebody's greenlet."""
    from geventpool import ConnectionNotFoundError

    pool = Pool(ScriptedConnector(), max_connections=1)
    holder = gevent.spawn(lambda shy: (pool.acquire(), hang()), Shy())
    gevent.idle()
    assert "held by <Greenlet" in str(refused(pool))
    with pytest.raises(ConnectionNotFoundError, match="Shy that cannot be shown"):
        pool.release(Shy())  # type: ignore[arg-type]
    holder.kill()
