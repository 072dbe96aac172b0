"""All use of redis-py's private members, in one place.

redis-py's pools use private members of their connections, and so must a replacement.
They were read in the sources of redis-py 6.4 to 8.1. ``make test-versions`` tests them
with each of these versions.

==================================  ===================================================
member                              relied on for
==================================  ===================================================
``Connection._sock``                the socket, for the look before lending
``Connection._parser``              its buffer, where unread replies may hide
``_HiredisParser._reader``          ``has_data()``, ``gets()`` and ``feed()`` of hiredis
``_HiredisParser._sock``             what a greenlet that waits for data looks at next
``_HiredisParser                    which replies are pushes
._hiredis_PushNotificationType``
``_RESP2Parser._buffer``,           the bytes read but not yet parsed
``SocketBuffer._buffer``
``handle_push_response()``          acting on an invalidation found in the parser
``Connection._connect``             replaced while a TCP connection connects, so that a
                                    numeric host needs no resolver
``Retry._backoff``                  replaced by one whose pauses can be ended
``Connection._should_reconnect``    what ``should_reconnect()`` would say
``Connection._re_auth_token``       is an AUTH due after this loan?
``CacheProxyConnection._conn``,     the connection behind a client-side cache, and the
``_cache``                          cache
``ConnectionPool._event_dispatcher``  told of each release
``ConnectionPool._lock``            taken by code for maintenance, clusters and caches
``_available_connections``,         what other people's code reads; presented here as
``_in_use_connections``,            snapshots of the core pool
``_created_connections``
``_checkpid()``, ``_fork_lock``     out of use: the core pool notices a fork itself
``SentinelConnectionPoolProxy       from a connection to its pool
.connection_pool_ref``
``NodesManager.from_url``           set by ``url=``: makes a cluster use a given class
``Connection._command_packer``      is it redis-py's own for hiredis? Replaced, to
                                    see which commands end a connection
``redis._parsers``                  which parsers are redis-py's own
``ClusterPipeline                   where pipelines can be made to take turns
._execution_strategy``
``redis.observability.recorder``    counts and times for OpenTelemetry
==================================  ===================================================

gevent keeps the native socket in ``socket._sock`` and the TLS object in
``SSLSocket._sslobj``.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from operator import attrgetter
from typing import Any

import redis
import redis._parsers
import redis.cluster
import redis.connection
import redis.event
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = [
    "CacheProxyConnection",
    "ReleasedEvent",
    "SentinelProxy",
    "awaits_auth",
    "backoff_of",
    "behind_cache",
    "check_members",
    "default_retry",
    "dialling_by",
    "dial_by_redis_py",
    "fast_packer_of",
    "flush_cache",
    "handle_push",
    "has_standard_methods",
    "hiredis",
    "hiredis_reader_of",
    "is_connected",
    "is_fit",
    "is_push",
    "module_of",
    "native_socket_of",
    "parse_url",
    "parser_of",
    "put_back",
    "recorder",
    "set_backoff",
    "socket_of",
    "take_turns",
    "tls_object_of",
    "unread",
    "uses_hiredis",
    "watch_commands",
]

# Public, but without types; or, says mypy, with abstract methods left.
parse_url: Any = redis.connection.parse_url
CacheProxyConnection: Any = redis.connection.CacheProxyConnection
PipelineStrategy: Any = redis.cluster.PipelineStrategy
SentinelProxy: Any = redis.sentinel.SentinelConnectionPoolProxy
ReleasedEvent: Any = redis.event.AfterConnectionReleasedEvent

socket_of = attrgetter("_sock")
native_socket_of = attrgetter("_sock._sock")
tls_object_of = attrgetter("_sock._sslobj")
parser_of = attrgetter("_parser")
hiredis_reader_of = attrgetter("_parser._reader")


def module_of(name: str) -> Any:
    """Return a module of redis-py; None: this version does not have it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class NoRecorder:
    """A substitute for redis-py's metrics, which came with 7.2."""

    _metrics_collector = None


#: redis-py's metrics: nothing is recorded while ``_metrics_collector`` is None.
recorder: Any = module_of("redis.observability.recorder") or NoRecorder


#: Members without which replies could be mixed up, or places lost.
_OF_CONNECTIONS = (
    "_sock",
    "_parser",
    "_re_auth_token",
    "connect",
    "connect_check_health",
    "disconnect",
    "read_response",
    "retry",
    "send_command",
)
_OF_CLASSES = (
    ("redis.client", "Redis._execute_command"),
    ("redis.client", "PubSub.execute_command"),
    ("redis.client", "Pipeline.immediate_execute_command"),
    ("redis.client", "Monitor.next_command"),
    ("redis.retry", "Retry.update_retries"),
    ("redis.retry", "Retry.get_retries"),
)


def check_members() -> None:
    """Check that redis-py has the members without which the pool is not safe.

    :raises ImportError: this version of redis-py lacks one.
    """
    kind: Any = redis.connection.Connection
    conn = kind()
    lacking = [f"Connection.{n}" for n in _OF_CONNECTIONS if not hasattr(conn, n)]
    for module, path in _OF_CLASSES:
        name, member = path.split(".")
        if not hasattr(getattr(module_of(module), name), member):
            lacking.append(path)
    if lacking:
        raise ImportError(
            f"geventpool.redis relies on {', '.join(lacking)}, which redis-py "
            f"{redis.__version__} has not; see the versions that geventpool names"
        )


def default_retry() -> Retry:
    """Return a copy of the retries that ``redis.Redis()`` gives to its own pool."""
    default = inspect.signature(redis.Redis.__init__).parameters["retry"].default
    return copy.deepcopy(default) or Retry(NoBackoff(), 0)


def backoff_of(retry: Any) -> Any:
    """Return the back-off of *retry*."""
    return retry._backoff


def set_backoff(retry: Any, backoff: Any) -> None:
    """Replace the back-off of *retry*."""
    retry._backoff = backoff


# Connections.


def behind_cache(conn: Any) -> Any:
    """Return the connection with the socket: *conn*, or the one behind its cache."""
    return getattr(conn, "_conn", conn)


def flush_cache(conn: Any) -> None:
    """Empty the client-side cache of *conn*, if it has one.

    The server reports changed keys only over the connection that read them, so cached
    values must not outlive that connection.
    """
    cache = getattr(conn, "_cache", None)
    if cache is not None:
        cache.flush()


def is_connected(conn: Any) -> bool:
    """Whether *conn* has a socket. True for an object of another kind."""
    try:
        return conn._sock is not None
    except AttributeError:
        return getattr(behind_cache(conn), "_sock", conn) is not None


def is_fit(conn: Any) -> bool:
    """Whether *conn* can be lent again: connected, and not marked for a reconnect."""
    try:
        return conn._sock is not None and not conn._should_reconnect
    except AttributeError:
        # Before redis-py 7.0, with a cache, or of another class.
        due = getattr(conn, "should_reconnect", None)
        return is_connected(conn) and (due is None or not due())


def awaits_auth(conn: Any) -> bool:
    """Whether *conn* was marked during its loan to authenticate again."""
    try:
        return conn._re_auth_token is not None
    except AttributeError:
        return getattr(behind_cache(conn), "_re_auth_token", None) is not None


#: How redis-py opens a TCP socket, and a Unix socket.
_connects: tuple[Any, Any] = (
    redis.connection.Connection._connect,
    redis.connection.UnixDomainSocketConnection._connect,
)


def dial_by_redis_py(conn: Any) -> Any:
    """Have redis-py open the socket of *conn*, and return it. May switch."""
    return type(conn)._connect(conn)


@contextmanager
def dialling_by(dial: Callable[[Any], Any], conn: Any) -> Iterator[None]:
    """In the block *dial* opens the socket of *conn*; it gets *conn*.

    Not if the connection's class has a way of its own, as for TLS.
    """
    own = vars(conn)
    if getattr(type(conn), "_connect", None) not in _connects or "_connect" in own:
        yield
        return
    own["_connect"] = partial(dial, conn)
    try:
        yield
    finally:
        del own["_connect"]


def unread(conn: Any) -> bytes:
    """Return the bytes that redis-py's own parser has read and not yet parsed.

    Empty for hiredis.
    """
    buffer: Any = getattr(conn._parser, "_buffer", None)
    count = getattr(buffer, "unread_bytes", None)
    if count is None or not count():
        return b""
    return bytes(buffer._buffer.getvalue()[buffer.get_pos() :])


def is_push(conn: Any, reply: Any) -> bool:
    """Whether *reply* of hiredis is a push."""
    kind = conn._parser._hiredis_PushNotificationType
    return kind is not None and isinstance(reply, kind)


def put_back(conn: Any, data: bytes) -> None:
    """Add *data* to the unread bytes of the parser."""
    try:
        hiredis_reader_of(conn).feed(data)
    except AttributeError:
        buffer = conn._parser._buffer._buffer
        position = buffer.tell()
        buffer.seek(0, io.SEEK_END)
        buffer.write(data)
        buffer.seek(position)


# Connections that many greenlets use at the same time.

hiredis: Any = module_of("hiredis")
_HiredisParser: Any = redis._parsers._HiredisParser
_PARSERS = (_HiredisParser, redis._parsers._RESP2Parser, redis._parsers._RESP3Parser)
#: Methods that a connection class must not override, because a shared connection does
#: not call them.
_STANDARD = (
    "pack_command",
    "pack_commands",
    "read_response",
    "send_command",
    "send_packed_command",
)


class _NoSocket:
    """Stands for the socket in a parser whose connection was closed."""

    def fileno(self) -> int:
        """Fail as reading from a closed connection does."""
        raise redis.ConnectionError("Connection closed by its pool.")


def fail_readers(conn: Any) -> None:
    """Give :exc:`redis.ConnectionError` to a greenlet that waits for data on *conn*.

    Call it when *conn* was disconnected. With hiredis, such a greenlet looks at the
    parser's socket when it is woken. None would be a :exc:`ValueError`. Never switches.
    """
    parser: Any = getattr(conn, "_parser", None)
    if uses_hiredis(parser) and getattr(parser, "_sock", parser) is None:
        parser._sock = _NoSocket()


def uses_hiredis(parser: Any) -> bool:
    """Whether *parser* uses hiredis."""
    return isinstance(parser, _HiredisParser)


def has_standard_methods(conn: Any) -> bool:
    """Whether *conn*, or a class, sends and reads by redis-py's own methods."""
    parser: Any = getattr(conn, "_parser", None)
    if parser is not None:
        if not isinstance(parser, _PARSERS) or not _is_known(type(parser)):
            return False
    return all(_is_known(getattr(conn, name, None)) for name in _STANDARD)


def _is_known(thing: Any) -> bool:
    module = str(getattr(thing, "__module__", ""))
    return module.startswith(("redis.", "geventpool.redis."))


def fast_packer_of(conn: Any) -> Any:
    """Return hiredis's function that packs commands as *conn* does; None: not used."""
    kind = vars(redis.connection).get("HiredisRespSerializer")
    if hiredis is None or kind is None or type(conn._command_packer) is not kind:
        return None
    pack: Callable[[Any], bytes] = hiredis.pack_command
    return pack


def watch_commands(conn: Any, wrap: Callable[[Any], Any]) -> None:
    """Replace what packs the commands of *conn* by what *wrap* makes of it.

    A connection class that is not redis-py's may not have it, and stays as it is.
    """
    conn = behind_cache(conn)
    packer = getattr(conn, "_command_packer", None)
    if packer is not None:
        conn._command_packer = wrap(packer)


def handle_push(conn: Any, reply: Any) -> None:
    """Call redis-py's handler for the push *reply*. May switch."""
    parser_of(conn).handle_push_response(reply)


# Clusters.


def take_turns(pipe: Any, turns: AbstractContextManager[Any]) -> None:
    """Let the cluster's pipeline *pipe* send only while it holds *turns*.

    A transaction needs a single connection, and so no turns.
    """
    strategy = pipe._execution_strategy
    if not isinstance(strategy, PipelineStrategy):
        return
    send = strategy.send_cluster_commands

    def send_in_turn(*args: Any, **kwargs: Any) -> Any:
        with turns:
            return send(*args, **kwargs)

    vars(strategy)["send_cluster_commands"] = send_in_turn
