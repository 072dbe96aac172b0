"""How connections of redis-py are made and connected to a TCP server."""

from __future__ import annotations

from typing import Any

import pytest
import redis
import redis.utils
from gevent import socket
from redis.backoff import NoBackoff
from redis.connection import Connection
from redis.retry import Retry

from geventpool.redis import ConnectionPool
from geventpool.redis.request_socket import RequestSocket
from geventpool.sockets import find_socket
from tests.redis.scripted import scripted_redis
from tests.redis.tools import pool_of
from tests.servers import RedisServer

OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
]

needs_driver_info = pytest.mark.skipif(
    not hasattr(redis, "DriverInfo"), reason="this redis-py tells nothing of itself so"
)


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that the resolver was asked for."""
    hosts: list[str] = []
    resolve = socket.getaddrinfo

    def noted(host: str, *args: Any, **kwargs: Any) -> Any:
        hosts.append(host)
        return resolve(host, *args, **kwargs)

    for module in "gevent.socket", "socket":
        monkeypatch.setattr(f"{module}.getaddrinfo", noted)
    return hosts


def make(port: int, **options: Any) -> redis.Redis:
    """Return a client with one connection, which does not retry."""
    retry = Retry(NoBackoff(), 0)
    pool = ConnectionPool(port=port, max_connections=1, retry=retry, **options)
    return redis.Redis(connection_pool=pool)


class Own(Connection):
    """A connection that opens its socket itself."""

    def _connect(self) -> Any:
        return super()._connect()


def test_a_program_may_replace_the_sockets_of_the_standard_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tests do so, to need no server."""

    class Broken(socket.socket):
        def connect(self, address: Any) -> None:
            raise OSError(5, "replaced")

    monkeypatch.setattr("socket.socket", Broken)
    client = make(1, host="127.0.0.1")
    with pytest.raises(redis.ConnectionError, match="replaced"):
        client.echo("x")
    pool_of(client).shutdown(timeout=0)


@pytest.mark.parametrize(
    "host, more, asked",
    [
        ("127.0.0.1", {}, []),
        ("localhost", {}, ["localhost"]),
        ("127.0.0.1", {"socket_type": socket.AF_INET}, ["127.0.0.1"]),
        ("127.0.0.1", {"connection_class": Own}, ["127.0.0.1"]),
    ],
)
def test_a_numeric_host_does_not_pass_through_the_resolver(
    host: str, more: dict[str, Any], asked: list[str], resolved: list[str]
) -> None:
    """Its thread would wait for the interpreter in a busy process."""
    with scripted_redis() as server:
        client = make(server.port, host=host, **more)
        assert client.echo("x") == b"x"
        pool_of(client).shutdown(timeout=0)
    assert resolved == asked


class Located(redis.UnixDomainSocketConnection):
    """A connection to a Unix socket that tells monitoring the host it is for."""

    host = "127.0.0.1"


@pytest.mark.parametrize(
    "kind, where, is_ours",
    [
        (Connection, "127.0.0.1", True),
        (Connection, "localhost", True),
        (redis.UnixDomainSocketConnection, "path", True),
        (Located, "path", True),
        (Own, "127.0.0.1", False),
    ],
)
def test_the_replies_of_a_connection_are_awaited_by_its_socket(
    kind: type[Any], where: str, is_ours: bool, redis_server: RedisServer
) -> None:
    """Unless the class of the connection opens its socket in its own way."""
    options: dict[str, Any] = {"host": where, "port": redis_server.port}
    if where == "path":
        options = {"path": redis_server.unix_socket}
    pool = ConnectionPool(kind, max_connections=1, socket_timeout=7.5, **options)
    conn = pool.get_connection()
    sock: Any = find_socket(conn)
    assert type(sock) is (RequestSocket if is_ours else socket.socket)
    assert sock.gettimeout() == 7.5
    pool.release(conn)
    assert redis.Redis(connection_pool=pool).echo("x") == b"x"
    pool.shutdown(timeout=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"socket_keepalive": False},
        {
            "socket_keepalive": True,
            "socket_keepalive_options": {socket.TCP_KEEPIDLE: 77},
            "socket_timeout": 7.5,
            "socket_connect_timeout": 3.0,
        },
    ],
)
def test_the_socket_has_the_options_that_redis_py_gives_to_it(
    options: dict[str, Any],
) -> None:
    """Nothing is missing or added."""
    with scripted_redis() as server:
        client = make(server.port, host="127.0.0.1", **options)
        theirs = Connection(host="127.0.0.1", port=server.port, **options)
        theirs.connect()
        ours = client.connection_pool.get_connection()
        sockets: list[Any] = [find_socket(ours), find_socket(theirs)]
        seen = [[sock.getsockopt(*each) for each in OPTIONS] for sock in sockets]
        assert seen[0] == seen[1]
        assert sockets[0].gettimeout() == sockets[1].gettimeout()
        theirs.disconnect()
        client.connection_pool.release(ours)
        pool_of(client).shutdown(timeout=0)


def test_an_option_that_the_system_refuses_leaves_no_socket_behind() -> None:
    """It is an error of the connection, as with redis-py."""
    with scripted_redis() as server:
        options = {"socket_keepalive": True, "socket_keepalive_options": {9999: 1}}
        client = make(server.port, host="127.0.0.1", **options)
        with pytest.raises(redis.ConnectionError, match="connecting to 127.0.0.1"):
            client.echo("x")
        pool_of(client).shutdown(timeout=0)


@needs_driver_info
def test_redis_py_looks_its_version_up_once_for_each_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It reads files for that, and connections are opened again and again."""
    reads: list[None] = []

    def version() -> str:
        reads.append(None)
        return "1.2.3"

    monkeypatch.setattr(redis.utils, "get_lib_version", version)
    pool = ConnectionPool()
    made = [pool.make_connection().driver_info for _ in range(3)]
    assert {each.lib_version for each in made} == {"1.2.3"}
    assert len(reads) == 1


@needs_driver_info
@pytest.mark.filterwarnings("ignore:.*lib_name:DeprecationWarning")
@pytest.mark.parametrize(
    "options, told",
    [
        ({"lib_name": "mine"}, ("mine", redis.__version__)),
        ({"lib_version": "1"}, ("redis-py", "1")),
        ({"lib_name": None, "lib_version": "1"}, (None, "1")),
        ({"lib_name": None, "lib_version": None}, None),
        ({"driver_info": None}, None),
    ],
)
def test_what_the_program_tells_of_the_driver_stays(
    options: dict[str, Any], told: tuple[str, str] | None
) -> None:
    """Also that nothing is to be told."""
    info = ConnectionPool(**options).make_connection().driver_info
    assert told == (info and (info.formatted_name, info.lib_version))


class Strict(Connection):
    """A connection that takes two keywords only."""

    def __init__(self, host: str = "", retry: Any = None, himport_registry: Any = None):
        super().__init__(host=host, retry=retry)


@pytest.mark.parametrize("kind", [Strict, lambda **options: Connection(port=1)])
def test_a_connection_class_gets_no_keyword_that_it_may_not_know(kind: Any) -> None:
    """It may be a function too."""
    pool = ConnectionPool(connection_class=kind)
    assert "driver_info" not in pool.connection_kwargs
