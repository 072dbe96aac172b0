"""
Kill, time-out, error and Ctrl-C at every switch point of everything that may switch.

Each row of the table is an operation on real sockets. It is run again and again, with
something thrown at its first, second, third... switch; then the pool must have all its
places, and the next borrower must get an answer of its own. What was hit is read from
the tracebacks, so that no row claims a method that it does not interrupt; and a method
that says "May switch" and stands in no row fails a test.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import gevent
import pytest
import redis
from gevent import socket
from pymysql.constants import COMMAND
from pymysql.cursors import SSCursor
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel
from sqlalchemy import create_engine, event, text

import geventpool
from geventpool import FactoryConnector, Pool, TcpConnection, Timeouts
from geventpool.dialing import dial, dial_unix
from geventpool.mysql import Connection
from geventpool.mysql import ConnectionPool as MySQLPool
from geventpool.mysql.ahead import packed
from geventpool.mysql.pool import CursorContext, TransactionContext
from geventpool.pool import ConnectionContext
from geventpool.redis import ConnectionPool as RedisPool
from geventpool.redis import RedisCluster, SentinelConnectionPool
from geventpool.redis.standin import StandIn
from geventpool.sockets import terminate
from geventpool.sqlalchemy import GreenletPool
from geventpool.testing import (
    Interrupted,
    Interruption,
    check,
    check_capacity,
    interrupt_everywhere,
    pool_greenlets,
    wait_until,
)
from tests.peers import Echo, open_sockets, tls_contexts, unix_path
from tests.servers import MariaDBServer, RedisSentinel, RedisServer

NO_RETRY = Retry(NoBackoff(), 0)

#: What was thrown in the run that is under way; its tracebacks tell what was hit.
_thrown: list[BaseException] = []


def noted(kind: type[BaseException]) -> type[BaseException]:
    """The same kind of error, each of which is noted when it is made."""

    class Noted(kind):  # type: ignore[valid-type, misc]
        def __init__(self) -> None:
            super().__init__()
            _thrown.append(self)

    Noted.__name__ = kind.__name__
    return Noted


KILL, TIMEOUT, ERROR, CTRL_C = (
    noted(kind)
    for kind in (gevent.GreenletExit, gevent.Timeout, Interrupted, KeyboardInterrupt)
)
#: Alone; and as nested time-outs do it which end together, one of them being a kill.
KINDS: list[Interruption] = [
    *(KILL, TIMEOUT, ERROR, CTRL_C),
    *((TIMEOUT, TIMEOUT), (TIMEOUT, KILL), (KILL, TIMEOUT)),
]


@dataclass
class Site:
    """The servers, one for the whole module."""

    echo: Echo
    tls: Echo
    unix: Echo
    redis: RedisServer
    sentinel: RedisSentinel
    cluster: RedisServer
    mysql: MariaDBServer
    file: str


@dataclass
class Scene:
    """One run: what is done, on which pools, and what must be true afterwards."""

    work: Callable[[], object]
    pools: Sequence[Pool[Any]]
    afterwards: Callable[[], object]
    #: the pools serve further runs
    lasting: bool = False


@dataclass(frozen=True)
class Row:
    """An operation, and what of geventpool it interrupts."""

    begin: Callable[[Site], Scene]
    covers: tuple[str, ...]


ROWS: dict[str, Row] = {}


def covers(*names: str) -> Callable[[Callable[[Site], Scene]], None]:
    """Put an operation in the table."""

    def note(begin: Callable[[Site], Scene]) -> None:
        ROWS[begin.__name__] = Row(begin, names)

    return note


@pytest.fixture(scope="module")
def site(
    redis_server: RedisServer,
    mariadb_server: MariaDBServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    file = tmp_path_factory.mktemp("load") / "numbers.txt"
    file.write_text("".join(f"{number}\t0\n" for number in range(10, 5000)))
    name = f"{mariadb_server.database}"
    mariadb_server.ask("SET GLOBAL local_infile=1")
    mariadb_server.ask(f"CREATE TABLE {name}.money (i INT PRIMARY KEY, v INT)")
    mariadb_server.ask(f"CREATE TABLE {name}.loaded (i INT, v INT)")
    mariadb_server.ask(f"INSERT INTO {name}.money VALUES (1, 100), (2, 200)")
    mariadb_server.ask(
        f"CREATE PROCEDURE {name}.several() BEGIN SELECT 1; SELECT 2; END"
    )
    with (
        unix_path() as path,
        Echo() as echo,
        Echo(tls=tls_contexts()[0]) as tls,
        Echo(path) as unix,
        RedisServer("--cluster-enabled", "yes") as cluster,
        RedisSentinel(redis_server) as sentinel,
    ):
        cluster.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: "cluster_state:ok" in str(cluster.ask("CLUSTER", "INFO")))
        with redis_server.admin() as admin:
            admin.mset({"mine": "M", "yours": "Y"})
        yield Site(
            *(echo, tls, unix, redis_server, sentinel, cluster, mariadb_server),
            str(file),
        )
    for drop in "TABLE {}.money", "TABLE {}.loaded", "PROCEDURE {}.several":
        mariadb_server.ask(f"DROP {drop}".format(name))


# The core, over TCP.


def ask(conn: Any, question: bytes) -> bytes:
    """The answer of an echo, whole."""
    conn.send(question)
    answer = b""
    while len(answer) < len(question):
        more = conn.recv(65536)
        assert more, "hung up"
        answer += more
    return answer


def echo_scene(
    work: Callable[[Pool[Any]], object], peer: Echo, **options: Any
) -> Scene:
    where = {**peer.options, "connect_timeout": 5, "timeout": 5}
    if peer._tls is not None:
        where["ssl"] = tls_contexts()[1]
    pool = Pool(TcpConnection, where, max_connections=1, timeout=5, **options)

    def afterwards() -> None:
        with pool.connection() as conn:
            assert ask(conn, b"yours") == b"yours"

    return Scene(lambda: work(pool), [pool], afterwards)


def in_block(pool: Pool[Any]) -> None:
    with pool.connection() as conn:
        assert ask(conn, b"mine") == b"mine"


def bare(pool: Pool[Any]) -> None:
    conn = pool.acquire()
    try:
        assert ask(conn, b"mine") == b"mine"
    except BaseException:
        pool.drop(conn)
        raise
    pool.release(conn)


OPENING = ("dialing.dial", "connection.TcpConnection.open")


@covers(
    "pool.Pool.connection",
    "connection.TcpConnection.recv",
    *("_core.wait_timers.WaitTimers.sleep", "_core.wait_timers.TimedWaiter.sleep"),
)
def a_block(site: Site) -> Scene:
    return echo_scene(in_block, site.echo)


@covers("pool.Pool.acquire", *OPENING, "connector.FactoryConnector.open")
def acquire_and_release(site: Site) -> Scene:
    return echo_scene(bare, site.echo)


@covers("pool.Pool.connection", *OPENING)
def a_block_over_tls(site: Site) -> Scene:
    return echo_scene(in_block, site.tls)


@covers("pool.Pool.connection")
def a_block_over_a_unix_socket(site: Site) -> Scene:
    return echo_scene(in_block, site.unix)


@covers("pool.Pool.connection", "connector.FactoryConnector.open")
def a_plain_socket(site: Site) -> Scene:
    # It does not notice by itself that it is out of step, as a TcpConnection does.
    pool = Pool(
        lambda: socket.create_connection(site.echo.address),
        max_connections=1,
        timeout=5,
    )

    def ask_plainly(question: bytes) -> None:
        with pool.connection() as conn:
            conn.sendall(question)
            assert conn.recv(65536) == question

    return Scene(lambda: ask_plainly(b"mine"), [pool], lambda: ask_plainly(b"yours"))


@covers("connection.TcpConnection.send")
def much_sent_to_a_slow_peer(site: Site) -> Scene:
    def work(pool: Pool[Any]) -> None:
        with pool.connection() as conn:
            reader = gevent.spawn_later(0.01, lambda: conn.recv(1))
            try:
                conn.send(bytes(8_000_000))
            finally:
                reader.kill(block=False)

    # What comes back is not read: the connection must not be kept.
    def end(pool: Pool[Any]) -> None:
        try:
            work(pool)
        finally:
            pool.drain()

    return echo_scene(end, site.echo)


@covers("connection.Connection.reconnect", "connection.TcpConnection.open")
def reconnecting(site: Site) -> Scene:
    def work(pool: Pool[Any]) -> None:
        with pool.connection() as conn:
            conn.reconnect()
            assert ask(conn, b"mine") == b"mine"

    return echo_scene(work, site.echo)


@covers("pool.Pool", "_core.opener.Opener.prefill")
def pre_filling(site: Site) -> Scene:
    made: list[Pool[Any]] = []

    def work() -> None:
        where = {**site.echo.options, "connect_timeout": 5}
        made.append(Pool(TcpConnection, where, 3, max_connections=3))

    def afterwards() -> None:
        for pool in made:
            in_block(pool)
            pool.close(timeout=0)
        site.echo.wait_open(0)

    return Scene(work, [], afterwards)


@covers("pool.Pool.close")
def closing(site: Site) -> Scene:
    where = {**site.echo.options, "connect_timeout": 5}
    pool = Pool(TcpConnection, where, max_connections=2)
    with pool.connection() as conn:
        ask(conn, b"warm")
    holder = gevent.spawn(bare, pool)

    def work() -> None:
        gevent.sleep(0)
        pool.close()

    def afterwards() -> None:
        pool.close(timeout=0)
        gevent.killall([holder])
        assert pool.size == 0

    return Scene(work, [], afterwards)


@covers("_core.lifecycle.Lifecycle.sweep")
def borrowing_while_the_reaper_pings(site: Site) -> Scene:
    class Slow(TcpConnection):
        def ping(self) -> None:
            ask(self, b"ping")

    where = {**site.echo.options, "connect_timeout": 5}
    pool = Pool(Slow, where, max_connections=2, ping_interval=0, reap_interval=99)
    lent = [pool.acquire() for _ in range(2)]
    for conn in lent:
        pool.release(conn)

    def work() -> None:
        # A sweep that takes long: each look at the clock is one slice later.
        now = 1000.0

        def clock() -> float:
            nonlocal now
            now += 0.003
            return now

        before, pool._ledger.clock = pool._ledger.clock, clock
        try:
            pool._lifecycle.sweep()
        finally:
            pool._ledger.clock = before
        in_block(pool)

    def afterwards() -> None:
        in_block(pool)

    return Scene(work, [pool], afterwards)


def until_idle(pool: Pool[Any]) -> None:
    """Wait for the pool's greenlets; they may have been killed."""
    while pool.stats().resetting:
        gevent.sleep(0.001)


class Speaking(FactoryConnector):
    """Every verb of it has something to say to the other side."""

    def open(self) -> Any:
        conn = super().open()
        try:
            ask(conn, b"hello")
        except BaseException:
            self.terminate(conn)
            raise
        return conn

    def needs_reset(self, conn: Any) -> bool:
        return True

    def reset(self, conn: Any) -> None:
        ask(conn, b"reset")


class Spoken(TcpConnection):
    """Its ping and its goodbye are round trips."""

    def ping(self) -> None:
        ask(self, b"ping")

    def close(self) -> None:
        try:
            if self.is_connected():
                ask(self, b"bye")
        finally:
            self.terminate()


@covers(
    *("connector.FactoryConnector.open", "connector.FactoryConnector.ping"),
    *("connector.FactoryConnector.close", "_core.workers.within"),
)
def a_connector_that_speaks(site: Site) -> Scene:
    connector = Speaking(Spoken, {**site.echo.options, "connect_timeout": 5})
    pool = Pool(connector, max_connections=1, ping_after=0, timeout=5)

    def work() -> None:
        in_block(pool)
        # It is being reset, and will be pinged when it is lent.
        until_idle(pool)
        in_block(pool)
        # Says goodbye.
        pool.drain()
        in_block(pool)

    return Scene(work, [pool], lambda: in_block(pool))


@covers("dialing.dial")
def dialling_by_hand(site: Site) -> Scene:
    def work() -> None:
        terminate(dial("localhost", site.echo.port, timeout=5))

    return Scene(work, [], lambda: site.echo.wait_open(0))


@covers("dialing.dial_unix")
def dialling_a_unix_socket_by_hand(site: Site) -> Scene:
    def work() -> None:
        sock = dial_unix(site.unix.path or "", timeout=5)
        try:
            sock.sendall(b"x")
            sock.recv(1)
        finally:
            terminate(sock)

    def full() -> None:
        # One that is full has to be asked again and again.
        with unix_path() as path, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            others = [socket.socket(socket.AF_UNIX) for _ in range(2)]
            try:
                for other in others:
                    other.setblocking(False)
                    other.connect_ex(path)
                terminate(dial_unix(path, timeout=0.02))
            except TimeoutError:
                pass
            finally:
                for other in others:
                    other.close()

    return Scene(lambda: (full(), work()), [], lambda: site.unix.wait_open(0))


# Redis


def redis_scene(
    work: Callable[[Any], object], site: Site, pool: Any = None, **options: Any
) -> Scene:
    if pool is None:
        where = {"host": site.redis.host, "port": site.redis.port}
        common = {"max_connections": 1, "timeout": 5, "retry": NO_RETRY}
        pool = RedisPool(**{**where, **common, **options})
    client = redis.Redis(connection_pool=pool)

    def afterwards() -> None:
        assert client.get("yours") == b"Y"
        assert client.get("mine") == b"M"
        assert not pool._loans.special

    return Scene(lambda: work(client), [pool.core], afterwards)


GET_CONNECTION = ("redis.pool.ConnectionPool.get_connection",)


@covers(*GET_CONNECTION, "redis.connector.RedisConnector.open")
def a_command(site: Site) -> Scene:
    def work(client: Any) -> None:
        assert client.get("mine") == b"M"

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_raw_connection(site: Site) -> Scene:
    def work(client: Any) -> None:
        conn = client.connection_pool.get_connection()
        try:
            conn.send_command("GET", "mine")
            assert conn.read_response() == b"M"
        finally:
            client.connection_pool.release(conn)

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_transaction(site: Site) -> Scene:
    def work(client: Any) -> None:
        with client.pipeline() as pipe:
            pipe.watch("mine")
            value = pipe.get("mine")
            pipe.multi()
            pipe.set("mine", value)
            pipe.get("yours")
            assert pipe.execute()[1] == b"Y"

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_pipeline(site: Site) -> Scene:
    def work(client: Any) -> None:
        with client.pipeline(transaction=False) as pipe:
            assert pipe.get("mine").get("yours").execute() == [b"M", b"Y"]

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_subscription(site: Site) -> Scene:
    def work(client: Any) -> None:
        with client.pubsub() as channel:
            channel.subscribe("news")
            channel.get_message(timeout=1)
            channel.get_message(timeout=0.001)
            channel.unsubscribe()

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_blocking_command(site: Site) -> Scene:
    return redis_scene(lambda client: client.blpop("nothing", 0.01), site)


@covers(*GET_CONNECTION)
def a_lock(site: Site) -> Scene:
    def work(client: Any) -> None:
        # Whoever is killed cannot unlock; the server does.
        with client.lock("lock:mine", timeout=0.05, blocking_timeout=2, sleep=0.01):
            client.get("mine")

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_client_with_one_connection(site: Site) -> Scene:
    def work(client: Any) -> None:
        pool = client.connection_pool
        with redis.Redis(connection_pool=pool, single_connection_client=True) as one:
            assert one.get("mine") == b"M"

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def disconnecting_and_renewing(site: Site) -> Scene:
    def work(client: Any) -> None:
        client.get("mine")
        client.connection_pool.disconnect()
        client.get("mine")
        client.connection_pool.reset()
        assert client.get("mine") == b"M"

    return redis_scene(work, site)


@covers("redis.pool.ConnectionPool.shutdown")
def shutting_down(site: Site) -> Scene:
    def hold(client: Any) -> None:
        try:
            client.get("mine")
        except redis.ConnectionError:
            # The pool was closed while it waited.
            pass

    scene = redis_scene(hold, site)
    [core] = scene.pools
    holder = gevent.spawn(scene.work)
    gevent.sleep(0)

    def afterwards() -> None:
        core.close(timeout=0)
        gevent.killall([holder])
        assert core.size == 0

    return Scene(core._connector._hooks().shutdown, [], afterwards)


class Token:
    """What a provider of credentials sends when it has new ones."""

    def try_get(self, name: str) -> str:
        return name

    def get_value(self) -> str:
        return ""


@covers("redis.credentials.Credentials.re_auth_callback")
def authenticating_anew(site: Site) -> Scene:
    pool_of: list[Any] = []

    class Connection(redis.Connection):
        def re_auth(self) -> None:
            if self._re_auth_token is not None:
                self.send_command("PING")
                self.read_response()
                self._re_auth_token = None

    def work(client: Any) -> None:
        client.get("mine")
        pool_of.append(client.connection_pool)
        client.connection_pool.re_auth_callback(Token())
        # And one that is marked while lent: that is the pool's own greenlet's.
        conn = client.connection_pool.get_connection()
        conn.set_re_auth_token(Token())
        client.connection_pool.release(conn)

    return redis_scene(work, site, connection_class=Connection)


@covers(
    *("redis.connector.RedisConnector.ping", "redis.connector.RedisConnector.reset"),
    "redis.credentials.Credentials.authenticate",
)
def pinged_and_authenticated_by_the_pool(site: Site) -> Scene:
    class Connection(redis.Connection):
        def re_auth(self) -> None:
            if self._re_auth_token is not None:
                self.send_command("PING")
                self.read_response()
                self._re_auth_token = None

    def work(client: Any) -> None:
        client.get("mine")
        conn = client.connection_pool.get_connection()
        conn.set_re_auth_token(Token())
        client.connection_pool.release(conn)
        until_idle(client.connection_pool.core)
        client.get("mine")

    return redis_scene(work, site, connection_class=Connection, ping_after=0)


@covers("redis.telemetry.Telemetry.timed")
def a_timed_loan(site: Site) -> Scene:
    def work(client: Any) -> None:
        pool = client.connection_pool
        conn = pool._telemetry.timed(pool.core.acquire)
        pool.core.release(conn)

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_master_named_by_sentinel(site: Site) -> Scene:
    where = [(site.sentinel.host, site.sentinel.port)]
    sentinel = Sentinel(where, socket_timeout=5, retry=NO_RETRY)
    pool = SentinelConnectionPool(
        "mymaster", sentinel, max_connections=1, timeout=5, retry=NO_RETRY
    )

    def work(client: Any) -> None:
        assert client.get("mine") == b"M"
        with client.pipeline(transaction=False) as pipe:
            assert pipe.get("mine").get("yours").execute() == [b"M", b"Y"]

    scene = redis_scene(work, site, pool)

    def afterwards() -> None:
        scene.afterwards()
        for each in sentinel.sentinels:
            each.close()

    return Scene(scene.work, scene.pools, afterwards)


# Redis, over shared connections


def shared_scene(
    work: Callable[[Any], object], site: Site, max_in_flight: int = 1000
) -> Scene:
    """A scene over a shared connection.

    :param int max_in_flight: 1: a command waits until the one before is answered.
    """
    given = {"auto_pipeline": True, "max_in_flight": max_in_flight}
    return redis_scene(work, site, max_connections=2, **given)


def while_another_waits(client: Any, act: Callable[[], object]) -> None:
    """Call *act* while the only place on the shared connection is taken."""
    client.get("yours")
    other = gevent.spawn(client.get, "yours")
    # It begins now, and has sent its command when this goes on.
    gevent.sleep(0)
    try:
        act()
    finally:
        other.kill(block=False)


@covers("redis.standin.StandIn.read_response", "redis.multiplexer.Multiplexer.wait")
def a_shared_command(site: Site) -> Scene:
    def work(client: Any) -> None:
        assert client.get("mine") == b"M"

    return shared_scene(work, site)


@covers(
    *("redis.standin.StandIn.send_command", "redis.multiplexer.Multiplexer.send"),
    "redis.room.Room.take",
)
def a_shared_command_that_waits_for_room(site: Site) -> Scene:
    def work(client: Any) -> None:
        while_another_waits(client, lambda: client.get("mine"))

    return shared_scene(work, site, max_in_flight=1)


@covers("redis.standin.StandIn.send_packed_command")
def a_shared_pipeline_that_waits_for_room(site: Site) -> Scene:
    def work(client: Any) -> None:
        with client.pipeline(transaction=False) as pipe:
            while_another_waits(client, pipe.get("mine").execute)

    return shared_scene(work, site, max_in_flight=1)


@covers(
    *("redis.sharing.Sharing.own_connection", "redis.sharing.Sharing.prepare"),
    *("redis.pool.ConnectionPool.own_connection", "redis.multiplexer.Multiplexer.take"),
)
def waiting_for_replicas_of_shared_writes(site: Site) -> Scene:
    def work(client: Any) -> None:
        # First over a connection of its own, then over the shared one.
        client.wait(0, 1)
        client.set("written", "1")
        client.wait(0, 1)

    return shared_scene(work, site)


@covers("redis.standin.StandIn.connect")
def a_connection_of_its_own_that_connects_anew(site: Site) -> Scene:
    def work(client: Any) -> None:
        client.get("mine")
        pool = client.connection_pool
        [multiplexer] = pool._sharing._multiplexers
        stand_in = StandIn(pool._sharing, multiplexer)
        try:
            stand_in.send_command("CLIENT", "ID")
            stand_in.disconnect()
            stand_in.connect()
        finally:
            pool.release(stand_in)

    return shared_scene(work, site)


@covers("redis.sharing.Sharing.acquire")
def a_connection_to_share(site: Site) -> Scene:
    def work(client: Any) -> None:
        sharing = client.connection_pool._sharing
        sharing.give_back(sharing.acquire(5))

    return shared_scene(work, site)


_clusters: dict[int, Any] = {}


def cluster_scene(work: Callable[[Any], object], site: Site) -> Scene:
    # To ask for the nodes each time would be most of the work.
    cluster = _clusters.get(site.cluster.port)
    if cluster is not None:
        for pool in cluster._pools():
            pool.disconnect()
    else:
        cluster = _clusters[site.cluster.port] = RedisCluster(
            *(site.cluster.host, site.cluster.port), max_connections=1, timeout=5
        )
        cluster.mset_nonatomic({"mine": "M", "yours": "Y"})

    def afterwards() -> None:
        assert cluster.get("yours") == b"Y"
        assert cluster.get("mine") == b"M"

    pools = [pool.core for pool in cluster._pools()]
    return Scene(lambda: work(cluster), pools, afterwards, lasting=True)


@covers(*GET_CONNECTION)
def a_command_to_a_cluster(site: Site) -> Scene:
    return cluster_scene(lambda cluster: cluster.get("mine"), site)


@covers(*GET_CONNECTION)
def a_pipeline_to_a_cluster(site: Site) -> Scene:
    def work(cluster: Any) -> None:
        pipe = cluster.pipeline()
        assert pipe.get("mine").get("yours").execute() == [b"M", b"Y"]

    return cluster_scene(work, site)


# MySQL


def mysql_scene(work: Callable[[Any], object], site: Site, **options: Any) -> Scene:
    given = {
        **({} if "hosts" in options else {"host": site.mysql.host}),
        **({} if "hosts" in options else {"port": site.mysql.port}),
        **{"user": site.mysql.user, "password": site.mysql.password},
        **{"database": site.mysql.database, "ssl_disabled": True, "timeout": 5},
        **{"max_connections": 1, "local_infile": True, **options},
    }
    pool = MySQLPool(**given)

    def afterwards() -> None:
        with pool.connection() as conn:
            assert value(conn, "SELECT 'yours'") == "yours"
            # No loan ends between the two halves of a transaction.
            assert value(conn, "SELECT SUM(v) FROM money") == 300
            assert value(conn, "SELECT @@autocommit") == 0

    return Scene(lambda: work(pool), [pool], afterwards)


def value(conn: Any, statement: str) -> Any:
    with conn.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def transfer(conn: Any) -> None:
    with conn.cursor() as cursor:
        cursor.execute("UPDATE money SET v = v - 1 WHERE i = 1")
        # Hit here, the connection is as good as ever, and half of it must not stay.
        gevent.sleep(0.001)
        cursor.execute("UPDATE money SET v = v + 1 WHERE i = 2")


MYSQL_OPENING = (
    *("mysql.connector.MySQLConnector.open", "mysql.packets.Packets.connect"),
)


@covers("mysql.pool.ConnectionPool.connection", *MYSQL_OPENING)
def a_query(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn:
            assert value(conn, "SELECT 'mine'") == "mine"

    return mysql_scene(work, site)


@covers(
    *("mysql.pool.ConnectionPool.acquire", "mysql.pool.ConnectionPool.connection"),
)
def a_loan_that_is_checked(site: Site) -> Scene:
    def checked(conn: Any) -> None:
        value(conn, "SELECT 1")
        conn.rollback()

    def work(pool: Any) -> None:
        with pool.connection() as conn:
            assert value(conn, "SELECT 'mine'") == "mine"
        conn = pool.acquire()
        try:
            assert value(conn, "SELECT 'mine'") == "mine"
        except BaseException:
            pool.drop(conn)
            raise
        conn.close()

    return mysql_scene(work, site, check=checked)


@covers(
    "mysql.pool.ConnectionPool.connection",
    "mysql.connection.Connection.commit_if_open",
)
def a_transfer(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn:
            transfer(conn)

    return mysql_scene(work, site)


@covers("mysql.connection.Connection.rollback_if_open")
def a_transfer_that_fails(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            with conn.cursor() as cursor:
                cursor.execute("UPDATE money SET v = v - 1 WHERE i = 1")
            raise ZeroDivisionError

    return mysql_scene(work, site)


@covers("mysql.pool.ConnectionPool.cursor")
def a_cursor(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.cursor() as cursor:
            cursor.executemany("UPDATE money SET v = v + %s", [(1,), (-1,)])

    return mysql_scene(work, site)


@covers("mysql.pool.ConnectionPool.cursor", "mysql.protocol.Wire.finish")
def rows_that_stream(site: Site) -> Scene:
    def work(pool: Any) -> None:
        rows = "SELECT REPEAT('x', 1000) FROM seq_1_to_500"
        with pool.cursor(SSCursor) as cursor:
            cursor.execute(rows)
            cursor.fetchone()
        with pool.connection() as conn:
            cursor = conn.cursor(SSCursor)
            cursor.execute(rows)
            cursor.fetchone()
            conn.finish()

    return mysql_scene(work, site)


@covers("mysql.pool.ConnectionPool.connection")
def a_procedure_with_several_results(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.callproc("several")
            assert cursor.fetchall() == ((1,),)
            assert cursor.nextset() and cursor.fetchall() == ((2,),)

    return mysql_scene(work, site)


@covers("mysql.pool.ConnectionPool.connection")
def a_file_that_is_loaded(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute(f"LOAD DATA LOCAL INFILE '{site.file}' INTO TABLE loaded")
            conn.rollback()

    scene = mysql_scene(work, site)

    def afterwards() -> None:
        scene.afterwards()
        # A part of a file must not be taken for the whole.
        assert site.mysql.ask(f"SELECT COUNT(*) FROM {site.mysql.database}.loaded") == [
            (0,)
        ]

    return Scene(scene.work, scene.pools, afterwards)


@covers(
    *("mysql.protocol.Wire.ping", "mysql.protocol.Wire.show_warnings"),
    "mysql.protocol.Wire.set_character_set",
)
def what_else_a_connection_does(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn:
            conn.ping()
            conn.begin()
            value(conn, "SELECT 1/0")
            conn.show_warnings()
            conn.set_character_set("latin1")
            conn.select_db(site.mysql.database)
            conn.autocommit(True)
            conn.autocommit(False)
            conn.commit()

    return mysql_scene(work, site)


@covers(
    *("mysql.connection.Connection.close", "mysql.protocol.Wire.send_quit"),
    "mysql.connector.MySQLConnector.close",
)
def goodbyes_that_wait(site: Site) -> Scene:
    scene = mysql_scene(lambda pool: None, site)
    [pool] = scene.pools

    def work() -> None:
        for close in pool._connector.close, Connection.close:
            conn = pool._connector.open()
            try:
                conn._command_owner = None
                # As if the buffers were full: the system takes the few bytes else.
                conn._write_bytes = lambda data: gevent.sleep(0.001)
                close(conn)
            finally:
                conn.terminate()

    return Scene(work, [pool], scene.afterwards)


@covers(*MYSQL_OPENING)
def reset_and_pinged_by_the_pool(site: Site) -> Scene:
    def work(pool: Any) -> None:
        for _ in range(3):
            with pool.connection() as conn, conn.cursor() as cursor:
                cursor.execute("SET @mine = 1")
            until_idle(pool)

    return mysql_scene(work, site, ping_after=0)


@covers(
    *("mysql.connector.MySQLConnector.reset", "mysql.connector.MySQLConnector.ping"),
    "mysql.protocol.Wire.pipeline",
)
def reset_and_pinged_by_hand(site: Site) -> Scene:
    scene = mysql_scene(lambda pool: None, site)
    [pool] = scene.pools

    def work() -> None:
        conn = pool._connector.open()
        try:
            pool._connector.ping(conn)
            pool._connector.reset(conn)
        finally:
            conn.terminate()

    return Scene(work, [pool], scene.afterwards)


@covers("mysql.ahead.Ahead.settle")
def a_loan_before_the_replies_to_the_reset(site: Site) -> Scene:
    scene = mysql_scene(lambda pool: None, site)
    [pool] = scene.pools

    def work() -> None:
        conn = pool._connector.open()
        try:
            # In the place of a reset whose reply takes long.
            assert conn.send_ahead(packed([(COMMAND.COM_QUERY, b"DO SLEEP(0.002)")]), 1)
            conn.settle()
        finally:
            conn.terminate()

    return Scene(work, [pool], scene.afterwards)


@covers("mysql.connection.Connection.end_transaction")
def a_configuration_that_begins_a_transaction(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn:
            assert value(conn, "SELECT 'mine'") == "mine"

    def configure(conn: Any) -> None:
        value(conn, "SELECT v FROM money")

    return mysql_scene(work, site, configure=configure)


@covers("mysql.connector.MySQLConnector.wait_for_locks")
def a_loan_while_a_lock_is_released(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection(), pool.connection() as conn:
            assert value(conn, "SELECT GET_LOCK('mine', 5)") == 1
        # One connection is idle, and the other one still has the lock.
        with pool.connection() as conn:
            assert value(conn, "SELECT GET_LOCK('mine', 5)") == 1

    return mysql_scene(work, site, max_connections=2)


@covers("mysql.connector.MySQLConnector.open")
def the_second_of_two_hosts(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn:
            transfer(conn)

    hosts = [("127.0.0.1", 1), (site.mysql.host, site.mysql.port)]
    return mysql_scene(work, site, hosts=hosts, timeouts=Timeouts(open=5))


@covers("mysql.tls.TLSContexts.__call__")
def a_context_for_tls(site: Site) -> Scene:
    scene = mysql_scene(lambda pool: None, site)
    [pool] = scene.pools

    def work() -> None:
        pool._connector._tls({"ca": site.file}, lambda options: sum(range(1000)))

    return Scene(work, [pool], scene.afterwards)


# SQLAlchemy


@covers(
    *("sqlalchemy.pool.GreenletPool.connect", "sqlalchemy.pool.GreenletPool.dispose"),
    *("sqlalchemy.record_pool.RecordPool.dispose", "sqlalchemy.records.Record.checkin"),
    *("sqlalchemy.records.Fairy.commit", "sqlalchemy.records.Fairy.rollback"),
    "sqlalchemy.record_pool.RecordConnector.close",
    "sqlalchemy.outages.ConnectGate.connect",
)
def an_engine(site: Site) -> Scene:
    engine = create_engine(
        site.mysql.url,
        poolclass=GreenletPool,
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={"ssl_disabled": True},
    )
    pool: Any = engine.pool
    event.listen(engine, "close", lambda *_: gevent.sleep(0.001))
    event.listen(engine, "checkin", lambda *_: gevent.sleep(0.001))

    def work() -> None:
        for _ in range(2):
            with engine.begin() as conn:
                conn.execute(text("UPDATE money SET v = v - 1 WHERE i = 1"))
                conn.execute(text("UPDATE money SET v = v + 1 WHERE i = 2"))
        with engine.connect() as conn:
            conn.execute(text("UPDATE money SET v = v - 1 WHERE i = 1"))
            conn.rollback()
        engine.dispose()

    def afterwards() -> None:
        check(pool.core)
        with gevent.Timeout(10, AssertionError("no connection")):
            with engine.connect() as conn:
                assert conn.execute(text("SELECT 'yours'")).scalar() == "yours"
                assert conn.execute(text("SELECT SUM(v) FROM money")).scalar() == 300
        engine.dispose()

    return Scene(work, [], afterwards)


# The harness


#: Django needs a configured program, and exporters need packages of their own. The
#: others are tools that lend nothing.
_ELSEWHERE_TESTED = (
    "geventpool.django",
    "geventpool.testing",
    "geventpool.advise",
    "geventpool.__main__",
    "geventpool.otel",
    "geventpool.prometheus",
    "geventpool.doctor",
    "geventpool.top",
)


def marked(owner: Any = None) -> Iterator[tuple[str, CodeType]]:
    """What says of itself that it may switch, by its name within the package."""
    for info in pkgutil.walk_packages(geventpool.__path__, "geventpool."):
        if info.name.startswith(_ELSEWHERE_TESTED):
            continue
        module = importlib.import_module(info.name)
        yield from _marked_in(module, info.name, info.name.split(".", 1)[1])


def _marked_in(owner: Any, module: str, prefix: str) -> Iterator[tuple[str, CodeType]]:
    for name, thing in list(vars(owner).items()):
        if name.startswith("_") and name not in ("__call__", "__enter__", "__exit__"):
            continue
        if type(thing) in (classmethod, staticmethod):
            thing = thing.__func__
        is_class = isinstance(thing, type)
        if not is_class and not isinstance(thing, FunctionType):
            continue
        homes = {module}
        if name in getattr(owner, "__all__", ()):
            # Public names say that they are defined in the package itself.
            homes.add("geventpool")
        if thing.__module__ not in homes or getattr(thing, "_is_protocol", False):
            continue
        where = thing.__init__ if is_class else inspect.unwrap(thing)
        # The constructor of a class may switch only if its docstring says "then".
        pattern = r"then\s+\*?may\s+switch" if is_class else r"\bmay\s+switch\b"
        if re.search(pattern, thing.__doc__ or "", re.I):
            code = getattr(where, "__code__", None)
            if code is not None:
                yield f"{prefix}.{name}", code
        if is_class:
            yield from _marked_in(thing, module, f"{prefix}.{name}")


#: Say that they may switch, and are not interrupted here, because:
NOT_HERE = {
    # There is nothing in them. What is derived from them is in the table.
    *("connection.Connection.open", "connection.Connection.close"),
    *("connector.Connector.open", "connector.Connector.close"),
    *("connector.Connector.ping", "connector.Connector.reset"),
    "connector.Connector.cancel",
    # They are called for what is kept ready, or by others. They have other tests.
    *("sqlalchemy.record_pool.RecordConnector.open", "redis.internals.handle_push"),
    "sqlalchemy.record_pool.RecordConnector.ping",
    *(
        "_core.workers.WorkerGroup.wait_for_one",
        "sqlalchemy.mysql_reset.reset_server_session",
    ),
    # It runs in greenlets of the pool; tests/test_opening.py interrupts it.
    "_core.opener.Opener.dial",
    # It is the switch of Pool.acquire(), which is in the table.
    "_core.line.Line.wait",
    # They serve a cancellation, which has tests of its own for MySQL.
    "mysql.cancel.Canceller.cancel",
    "mysql.connector.MySQLConnector.cancel",
    "mysql.interrupted.Interruptible.forget_reply",
    "mysql.interrupted.Interruptible.wait_for_reply",
    "mysql.side_connection.SideConnection.find",
    "mysql.side_connection.SideConnection.is_there",
    "mysql.side_connection.SideConnection.kill_connection",
    "mysql.side_connection.SideConnection.kill_query",
    # It is called within a reset, which is in the table.
    "mysql.hidden.harmless_kinds",
    # ...it calls the method of the core, which is in the table.
    "mysql.pool.ConnectionPool.close",
}

#: Where the switch is, of what switches in an object that it returns.
ELSEWHERE: dict[str, Callable[..., Any]] = {
    "pool.Pool.connection": ConnectionContext.__enter__,
    "mysql.pool.ConnectionPool.connection": TransactionContext.__enter__,
    "mysql.pool.ConnectionPool.cursor": CursorContext.__enter__,
}


def names_by_code() -> dict[CodeType, str]:
    names = {code: name for name, code in marked()}
    names.update({each.__code__: name for name, each in ELSEWHERE.items()})
    return names


def interrupted(site: Site, row: Row, later: int = 0) -> set[CodeType]:
    """Interrupt a row everywhere; what was hit."""
    seen: set[CodeType] = set()
    scene: Scene | None = None

    def scenario() -> Any:
        nonlocal scene
        scene = begun = row.begin(site)

        def work() -> None:
            try:
                begun.work()
            except BaseException as error:
                look()
                if error not in _thrown:
                    raise

        return work, [] if scene.lasting else scene.pools

    def look() -> None:
        # At once: what the frames hold may hold a loan, and end it when it goes.
        for error in _thrown:
            trace = error.__traceback__
            while trace is not None:
                seen.add(trace.tb_frame.f_code)
                trace = trace.tb_next
            error.__traceback__ = None

    def afterwards() -> None:
        look()
        _thrown.clear()
        assert scene is not None
        if scene.lasting:
            for pool in scene.pools:
                check(pool)
                check_capacity(pool)
        scene.afterwards()

    def is_the_pools(victim: Any) -> bool:
        return scene is not None and any(
            victim in pool_greenlets(pool) for pool in scene.pools
        )

    common: Any = {"later": later, "afterwards": afterwards, "patience": 20}
    interrupt_everywhere(scenario, errors=KINDS, **common)
    interrupt_everywhere(scenario, errors=[KILL], victims=is_the_pools, **common)
    return seen


def cases() -> Iterator[Any]:
    for name, row in ROWS.items():
        # A dial of redis-py that is killed leaves its socket to the collector.
        marks = [pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]
        is_redis = any(each.startswith("redis.") for each in row.covers)
        yield pytest.param(name, marks=marks if is_redis else [])


@pytest.mark.parametrize("name", list(cases()))
def test_whatever_is_interrupted_loses_nothing(name: str, site: Site) -> None:
    """No place is lost, no answer goes astray; and what the row claims was hit."""
    row = ROWS[name]
    names = names_by_code()
    found: set[str] = set()
    before = len(open_sockets())
    # A server may answer before one waits for it: then there is no switch that time.
    for _ in range(10):
        found |= {names[code] for code in interrupted(site, row) if code in names}
        if found >= set(row.covers):
            break
    assert set(row.covers) <= found, f"not hit: {set(row.covers) - found}"
    gc.collect()
    # The peers in this process, and the cluster's pools, which serve the next row.
    wait_until(lambda: len(open_sockets()) <= before + 2 * ("cluster" in name))


def test_nothing_that_may_switch_is_left_out() -> None:
    """A method that may switch has a row here, under the name that it has now."""
    said = {name for name, _ in marked()}
    covered = {name for row in ROWS.values() for name in row.covers}
    assert said - covered - NOT_HERE == set()
    assert (covered | NOT_HERE) - said - set(ELSEWHERE) == set()
    assert covered & NOT_HERE == set()


# Nested time-outs, by the loop's own timers

#: What waits for longer than anybody's patience here.
LONG: dict[str, Callable[[Site], Scene]] = {
    "redis": lambda site: redis_scene(lambda client: client.blpop("nothing", 5), site),
    "mysql": lambda site: mysql_scene(lambda pool: _sleep(pool), site),
    "core": lambda site: echo_scene(lambda pool: _listen(pool), site.echo),
    "line": lambda site: echo_scene(lambda pool: _wait(pool), site.echo),
}


def _sleep(pool: Any) -> None:
    with pool.connection() as conn:
        value(conn, "SELECT SLEEP(5)")


def _listen(pool: Pool[Any]) -> None:
    with pool.connection() as conn:
        conn.recv()


def _wait(pool: Pool[Any]) -> None:
    def hold() -> None:
        with pool.connection():
            gevent.sleep(5)

    holder = gevent.spawn(hold)
    gevent.sleep(0)
    try:
        pool.acquire()
    finally:
        holder.kill()


@pytest.mark.parametrize("outer, inner", [(0.02, 0.02), (0.02, 0.04), (0.04, 0.02)])
@pytest.mark.parametrize("name", LONG)
def test_of_nested_time_outs_the_one_that_is_due_arrives(
    name: str, outer: float, inner: float, site: Site
) -> None:
    """It is nobody else's, and nothing that a driver has made of it."""
    scene = LONG[name](site)
    first = gevent.Timeout.start_new(outer)
    second = gevent.Timeout.start_new(inner)
    try:
        with pytest.raises(gevent.Timeout) as caught:
            scene.work()
    finally:
        first.close()
        second.close()
    due = {first} if outer < inner else {second} if inner < outer else {first, second}
    assert caught.value in due
    scene.afterwards()
    for pool in scene.pools:
        check(pool)
        check_capacity(pool)
        pool.close(timeout=0)
