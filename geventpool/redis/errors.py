"""The core's refusals, made redis-py's as well.

Whoever catches ``redis.ConnectionError`` catches them, and a ``RedisCluster`` knows
from ``MaxConnectionsError`` that no node has failed.

::

    geventpool.PoolExhaustedError, redis.MaxConnectionsError
    +-- RedisPoolExhaustedError
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
    "TakenBackError",
    "RedisTooManyWaitingError",
    "translate_error",
]


class RedisPoolExhaustedError(errors.PoolExhaustedError, MaxConnectionsError):
    """No connection could be had in time."""


class RedisTooManyWaitingError(errors.TooManyWaitingError, RedisPoolExhaustedError):
    """The line is already ``max_waiting`` long."""


class RedisPoolDeadlockError(errors.PoolDeadlockError, RedisPoolExhaustedError):
    """Every connection is held by a greenlet that itself waits in this line."""


class RedisPoolClosedError(errors.PoolClosedError, ConnectionError):
    """The pool was shut down before the call, or while the caller waited."""


class TakenBackError(errors.ConnectionNotFoundError, ConnectionError):
    """The connection is used after its loan has ended, and has no socket any more."""


_TRANSLATIONS: dict[type[Exception], type[RedisError]] = {
    errors.PoolExhaustedError: RedisPoolExhaustedError,
    errors.TooManyWaitingError: RedisTooManyWaitingError,
    errors.PoolDeadlockError: RedisPoolDeadlockError,
    errors.PoolClosedError: RedisPoolClosedError,
    # A limit of the pool on what it lets its own greenlets do.
    TimeoutError: RedisTimeoutError,
}


def translate_error(error: Exception) -> Exception:
    """The same refusal as an error that redis-py's callers know; same words, cause.

    What is no refusal of the core is returned as it is.
    """
    kind = _TRANSLATIONS.get(type(error))
    if kind is None:
        return error
    words = str(error)
    if kind is RedisPoolExhaustedError:
        # What redis-py's blocking pool says, and people search for.
        words = f"No connection available. {words}"
    translated = kind(words)
    translated.__cause__ = error.__cause__
    return translated
