"""The errors of the core pool, as errors of redis-py as well.

Code that catches ``redis.ConnectionError`` catches them. A ``RedisCluster`` recognises
by ``MaxConnectionsError`` that no node has failed.

::

    geventpool.PoolExhaustedError, redis.MaxConnectionsError
    +-- RedisPoolExhaustedError
        |-- RedisPoolOverloadedError      also a geventpool.PoolOverloadedError
        |-- RedisTooManyWaitingError      also a geventpool.RedisTooManyWaitingError
        +-- RedisPoolDeadlockError        also a geventpool.PoolDeadlockError
    geventpool.PoolClosedError, redis.ConnectionError
    +-- RedisPoolClosedError
    geventpool.ConnectionNotFoundError, redis.ConnectionError
    +-- TakenBackError
"""

from __future__ import annotations

from redis.exceptions import ConnectionError, MaxConnectionsError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from geventpool import errors

__all__ = [
    "RedisPoolClosedError",
    "RedisPoolDeadlockError",
    "RedisPoolExhaustedError",
    "RedisPoolOverloadedError",
    "TakenBackError",
    "RedisTooManyWaitingError",
    "translate_error",
]


class RedisPoolExhaustedError(errors.PoolExhaustedError, MaxConnectionsError):
    """No connection became available in time."""


class RedisTooManyWaitingError(errors.TooManyWaitingError, RedisPoolExhaustedError):
    """``max_waiting`` greenlets wait already for places that others have."""


class RedisPoolOverloadedError(errors.PoolOverloadedError, RedisPoolExhaustedError):
    """The pool's *admission* refuses the caller early."""


class RedisPoolDeadlockError(errors.PoolDeadlockError, RedisPoolExhaustedError):
    """Each connection is held by a greenlet that itself waits for one."""


class RedisPoolClosedError(errors.PoolClosedError, ConnectionError):
    """The pool was shut down before the call, or while the caller waited."""


class TakenBackError(errors.ConnectionNotFoundError, ConnectionError):
    """The connection was used after its loan had ended."""


_TRANSLATIONS: dict[type[Exception], type[RedisError]] = {
    errors.PoolExhaustedError: RedisPoolExhaustedError,
    errors.PoolOverloadedError: RedisPoolOverloadedError,
    errors.TooManyWaitingError: RedisTooManyWaitingError,
    errors.PoolDeadlockError: RedisPoolDeadlockError,
    errors.PoolClosedError: RedisPoolClosedError,
    # A time limit of the pool's own greenlets.
    TimeoutError: RedisTimeoutError,
}


def translate_error(error: Exception) -> Exception:
    """Return an error of the core as one of redis-py, with the same text and cause.

    Other errors are returned unchanged.
    """
    kind = _TRANSLATIONS.get(type(error))
    if kind is None:
        return error
    words = str(error)
    if kind is RedisPoolExhaustedError:
        # The text of redis-py's blocking pool, which people search for.
        words = f"No connection available. {words}"
    translated = kind(words)
    translated.__cause__ = error.__cause__
    return translated
