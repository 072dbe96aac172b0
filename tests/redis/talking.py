"""Clients whose commands share a connection to a scripted server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
import redis
from gevent.event import Event
from redis.backoff import NoBackoff
from redis.retry import Retry

from geventpool.redis import ConnectionPool
from geventpool.testing import wait_until
from tests import parts
from tests.redis.scripted import ScriptedRedis, echo, scripted_redis
from tests.redis.tools import outcome, pool_of

NO_RETRY = Retry(NoBackoff(), 0)


def silent(command: list[bytes]) -> None:
    """The server says nothing by itself."""


@contextmanager
def talking(
    answer: Any = silent, **options: Any
) -> Iterator[tuple[redis.Redis, ScriptedRedis]]:
    """A client whose commands share a connection to a scripted server, opened."""
    options = {"auto_pipeline": True, "retry": NO_RETRY, "timeout": 5, **options}
    with scripted_redis(echo) as server:
        pool = ConnectionPool(port=server.port, **options)
        client = redis.Redis(connection_pool=pool)
        assert client.get("first") == b"first"
        server.received.clear()
        server.answer = answer
        yield client, server
        pool.shutdown(0)


def multiplexer(client: redis.Redis) -> Any:
    """What sends the commands of a client; only one does."""
    return parts.multiplexers(client.connection_pool)[0]


def in_flight(client: redis.Redis) -> int:
    """How many commands wait for replies."""
    return parts.sharing(client.connection_pool).in_flight()


class Interrupt(BaseException):
    """What a signal handler raises."""


def without_connection(client: redis.Redis) -> None:
    """Let the next command open a connection."""
    pool = client.connection_pool
    parts.sharing(pool).renew()
    wait_until(lambda: multiplexer(client).shared is None)
    pool.core.drop(pool.core.acquire())  # type: ignore[attr-defined]


def once(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Raise an :class:`Interrupt` in the place of the next call of a method."""
    method = getattr(owner, name)

    def interrupted(self: Any, *args: Any) -> Any:
        patch.setattr(owner, name, method)
        raise Interrupt

    patch.setattr(owner, name, interrupted)


def own_loans(client: redis.Redis) -> int:
    """How many connections are lent that are not shared."""
    pool = pool_of(client)
    shared = sum(each.shared is not None for each in parts.multiplexers(pool))
    return pool.stats().in_use - shared


class Holder:
    """A greenlet that holds a connection, and sends a command when it may."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._may_send = Event()
        self._is_holding = Event()
        self.job = gevent.spawn(self._run)
        self._is_holding.wait()

    def _run(self) -> Any:
        conn = pool_of(self._client).get_connection()
        self._is_holding.set()
        self._may_send.wait()
        got = outcome(self._client.get, "key")
        pool_of(self._client).release(conn)
        return got

    def send(self) -> None:
        """Send the command, a little later."""
        self._may_send.set()

    def get(self) -> Any:
        """The reply or the error."""
        return self.job.get(timeout=5)


def waits(client: redis.Redis) -> Callable[[], bool]:
    """Whether the opener of the shared connection waits for a place."""
    return lambda: pool_of(client).stats().waiting == 1


@contextmanager
def two_holders() -> Iterator[tuple[redis.Redis, Holder, Holder]]:
    """A client whose two connections have a holder each, who alone gives it back.

    No connection is shared, and nobody's wait has a time limit.
    """
    options: dict[str, Any] = {"owner_only": True, "timeout": None}
    with talking(echo, max_connections=2, **options) as (client, _):
        without_connection(client)
        yield client, Holder(client), Holder(client)
