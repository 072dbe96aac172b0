"""Who asks the pool for a connection, and who gives one back; told from the stack.

Knows redis-py's classes. An object is recognised by its class and not by the code of
a method, because a tracer may have replaced the method.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from operator import attrgetter
from types import CodeType, FrameType
from typing import Any

import redis.client
import redis.cluster

from geventpool.redis.internals import module_of

__all__ = [
    "COMMAND",
    "asker",
    "code_of",
    "was_interrupted",
    "is_driver",
    "is_sharing_caller",
    "owner_of",
]

#: Objects that keep a connection across calls, whatever method takes it.
_KEEPERS: tuple[type, ...] = (
    redis.client.PubSub,
    redis.client.Monitor,
    redis.cluster.TransactionStrategy,
)

#: Functions of redis-py that take a connection for somebody else.
_MIDDLEMEN = ("get_connection", "wrapper")


def code_of(module: str, path: str) -> CodeType | None:
    """The code of a method, or None where this version of redis-py has none."""
    try:
        method = attrgetter(path)(module_of(module))
    except AttributeError:
        return None
    return getattr(inspect.unwrap(method), "__code__", None)


_execute_command: Any = redis.Redis._execute_command
#: Every command of a client; it gives back what it took before it returns.
COMMAND: CodeType = inspect.unwrap(_execute_command).__code__

#: Between the frame that an error reached and the one that gives the connection back.
_DEPTH = 2


def asker(frame: FrameType | None, pool: object) -> FrameType | None:
    """The frame for which a connection of *pool* is taken; None: a greenlet's own.

    :param frame: the caller of ``get_connection``.
    """
    while frame is not None and (
        frame.f_code.co_name in _MIDDLEMEN or _is_wrapper(frame, pool)
    ):
        frame = frame.f_back
    return frame


def _is_wrapper(frame: FrameType, pool: object) -> bool:
    """Does *frame* only pass on a call of a method of *pool*, as a tracer does?

    Such a function takes any arguments and has the pool among its own.
    """
    code = frame.f_code
    named = code.co_varnames[: code.co_argcount]
    values = [frame.f_locals.get(name) for name in named]
    if code.co_flags & inspect.CO_VARARGS:
        rest = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
        values += frame.f_locals.get(rest, ())
    elif "wrapped" not in named:
        return False
    return any(value is pool for value in values)


def is_driver(frame: FrameType) -> bool:
    """Is *frame* one of redis-py itself?"""
    return str(frame.f_globals.get("__name__")).startswith("redis.")


def owner_of(frame: FrameType) -> Any:
    """The object that keeps, across its own calls, what *frame* takes; or None.

    Such a loan may outlive the greenlet that made it: one greenlet subscribes, another
    listens. It belongs to that object.
    """
    me, name = frame.f_locals.get("self"), frame.f_code.co_name
    if isinstance(me, _KEEPERS):
        return me
    if not is_driver(frame):
        return None
    if isinstance(me, redis.client.Pipeline):
        # execute() gives back what it took before it returns.
        return me if name != "execute" else None
    if isinstance(me, redis.Redis):
        # A client with a single connection takes it in its constructor.
        return me if name == "__init__" else None
    return None


#: Callers that send one command or pipeline, or one of each of several nodes of a
#: cluster, and give back what they took before they return.
_sharing_callers = {
    id(code)
    for code in (
        COMMAND,
        code_of("redis.client", "Pipeline.execute"),
        code_of("redis.cluster", "RedisCluster._execute_command"),
        code_of("redis.cluster", "PipelineStrategy._send_cluster_commands"),
        code_of("redis.cluster", "ClusterPipeline._send_cluster_commands"),
    )
    if code is not None
}
#: The function by which a cluster's client asks its node's pool.
_CLUSTER_GET = code_of("redis.cluster", "get_connection")


def is_sharing_caller(caller: FrameType) -> bool:
    """Does *caller* send commands that may share a connection with others?"""
    if caller.f_code is _CLUSTER_GET:
        # Between it and the client is the frame of a decorator.
        behind = caller.f_back
        while behind is not None and behind.f_code.co_name == "wrapper":
            behind = behind.f_back
        caller = behind or caller
    return id(caller.f_code) in _sharing_callers


def was_interrupted(
    error: BaseException, frame: FrameType | None, pool: object
) -> bool:
    """Did *error* come out of the command whose connection is now given back?

    *error* is being handled somewhere. If the frame that it reached last is the one
    that gives the connection back, in a ``finally``, or the caller of that one, it
    came out of the command. An error that is handled further out is unrelated.

    :param frame: the caller of ``release``.
    """
    trace = error.__traceback__
    return trace is not None and any(
        each is trace.tb_frame for each in _nearest(frame, pool)
    )


def _nearest(frame: FrameType | None, pool: object) -> Iterator[FrameType]:
    """*frame* and its caller; and the wrappers of tracers between them."""
    left = _DEPTH
    while frame is not None and left:
        yield frame
        left -= not _is_wrapper(frame, pool)
        frame = frame.f_back
