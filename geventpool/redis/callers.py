"""Finds in the stack which code asks for a connection or gives one back.

It recognises objects of redis-py by their class and not by the code of a method,
because a tracer may have replaced the method.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from operator import attrgetter
from types import CodeType, FrameType
from typing import Any

import redis.client
import redis.cluster
from redis.client import NEVER_DECODE

from geventpool.redis.internals import module_of

__all__ = [
    "COMMAND",
    "borrowing_frame",
    "code_of",
    "was_interrupted",
    "is_cluster",
    "is_driver",
    "owner_of",
    "sharing_frame",
    "wants_raw_replies",
]

#: Classes whose objects keep a connection between calls, whichever method takes it.
_OWNERS: tuple[type, ...] = (
    redis.client.PubSub,
    redis.client.Monitor,
    redis.cluster.TransactionStrategy,
)

#: Functions of redis-py that take a connection for their caller.
_INTERMEDIATES = ("get_connection", "wrapper")


def code_of(module: str, path: str) -> CodeType | None:
    """Return the code of a method; None: this version of redis-py does not have it."""
    try:
        method = attrgetter(path)(module_of(module))
    except AttributeError:
        return None
    return getattr(inspect.unwrap(method), "__code__", None)


_execute_command: Any = redis.Redis._execute_command
#: The method for every command of a client. It gives its connection back before it
#: returns.
COMMAND: CodeType = inspect.unwrap(_execute_command).__code__

#: The frames in which an error can have been when the connection is given back.
_DEPTH = 2


def borrowing_frame(frame: FrameType | None, pool: object) -> FrameType | None:
    """Return the frame that a connection of *pool* is taken for.

    :param frame: the caller of ``get_connection``.
    :return: None: no caller; the call is the whole work of a greenlet.
    """
    while frame is not None and (
        frame.f_code.co_name in _INTERMEDIATES or _is_wrapper(frame, pool)
    ):
        frame = frame.f_back
    return frame


def _is_wrapper(frame: FrameType, pool: object) -> bool:
    """Whether *frame* only passes a call on to a method of *pool*, as a tracer does.

    Such a function takes any arguments, and the pool is one of them.
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
    """Whether *frame* is in redis-py."""
    return str(frame.f_globals.get("__name__")).startswith("redis.")


def is_cluster(frame: FrameType) -> bool:
    """Whether *frame* is in redis-py's client for clusters."""
    return frame.f_globals.get("__name__") == redis.cluster.__name__


def owner_of(frame: FrameType) -> Any:
    """Return the object that keeps the connection which *frame* takes; None: none.

    Such a loan may outlive the greenlet that began it: one greenlet subscribes, another
    listens. So the loan belongs to the object.
    """
    me, name = frame.f_locals.get("self"), frame.f_code.co_name
    if isinstance(me, _OWNERS):
        return me
    if not is_driver(frame):
        return None
    if isinstance(me, redis.client.Pipeline):
        # execute() gives its connection back before it returns.
        return me if name != "execute" else None
    if isinstance(me, redis.Redis):
        # A single-connection client takes its connection in the constructor.
        return me if name == "__init__" else None
    return None


#: Callers that send one command or pipeline (in a cluster, one to each of several
#: nodes), and give their connections back before they return.
_sharing_callers = {
    # By id, because a code object is hashed by its contents. It is kept, so that no
    # other one gets its address if a tracer has replaced the method.
    id(code): code
    for code in (
        COMMAND,
        code_of("redis.client", "Pipeline.execute"),
        code_of("redis.cluster", "RedisCluster._execute_command"),
        code_of("redis.cluster", "PipelineStrategy._send_cluster_commands"),
        code_of("redis.cluster", "ClusterPipeline._send_cluster_commands"),
    )
    if code is not None
}
#: The function of a cluster's client that takes a connection of a node's pool.
_CLUSTER_GET = code_of("redis.cluster", "get_connection")


def sharing_frame(caller: FrameType) -> FrameType | None:
    """Return the frame that sends commands which may share a connection.

    :param caller: the caller of ``get_connection``.
    :return: None: its commands may not share one.
    """
    if caller.f_code is _CLUSTER_GET:
        # Skip the frame of a decorator between it and the client.
        behind = caller.f_back
        while behind is not None and behind.f_code.co_name == "wrapper":
            behind = behind.f_back
        caller = behind or caller
    return caller if id(caller.f_code) in _sharing_callers else None


def wants_raw_replies(frame: FrameType) -> bool:
    """Whether *frame* sends a pipeline with a reply that must not be decoded.

    redis-py tells this to a connection only when it reads the reply.
    """
    return any(
        NEVER_DECODE in (each[1] if isinstance(each, tuple) else each.options)
        for each in frame.f_locals.get("stack") or ()
    )


def was_interrupted(
    error: BaseException, frame: FrameType | None, pool: object
) -> bool:
    """Whether *error* ended the command whose connection is now given back.

    *error* is being handled in some frame. If that is the frame that gives the
    connection back (in a ``finally``) or its caller, the error came from the command.
    An error that is handled in an outer frame is unrelated.

    :param frame: the caller of ``release``.
    """
    trace = error.__traceback__
    return trace is not None and any(
        each is trace.tb_frame for each in _nearest(frame, pool)
    )


def _nearest(frame: FrameType | None, pool: object) -> Iterator[FrameType]:
    """Return *frame*, its caller, and the wrappers of tracers between them."""
    left = _DEPTH
    while frame is not None and left:
        yield frame
        left -= not _is_wrapper(frame, pool)
        frame = frame.f_back
