"""The errors that redis-py would raise after a failed read or write."""

from __future__ import annotations

from redis.exceptions import ConnectionError, InvalidResponse, RedisError

__all__ = ["as_redis_error", "read_error", "write_error"]


def read_error(error: BaseException) -> RedisError:
    """Return the error that redis-py would raise after a failed read."""
    if isinstance(error, RedisError):
        return error
    if isinstance(error, OSError):
        return ConnectionError(f"Error while reading from socket: {error.args}")
    if isinstance(error, Exception):
        return InvalidResponse(f"Protocol Error: {error!r}")
    return ConnectionError(f"Interrupted while reading: {error!r}")


def write_error(error: BaseException) -> RedisError:
    """Return the error that redis-py would raise after a failed write."""
    if not isinstance(error, Exception):
        return ConnectionError(f"Interrupted while writing: {error!r}")
    if isinstance(error, OSError) and len(error.args) > 1:
        number, message = error.args[:2]
        return ConnectionError(f"Error {number} while writing to socket. {message}.")
    return ConnectionError(f"Error UNKNOWN while writing to socket. {error}.")


def as_redis_error(error: BaseException) -> RedisError:
    """Return *error* for a caller, even if a signal kept it from being translated."""
    return error if isinstance(error, RedisError) else write_error(error)
