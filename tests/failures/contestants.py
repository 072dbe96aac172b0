"""The interface of the pools under test, and ours; ``peers.py`` has the others.

Drivers get the same time-outs everywhere, and none of their own retries: a second try
that went well would hide what the pool did with the first.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import geventpool
from geventpool.testing import check
from tests.failures.sites import LIMIT, Site

#: Seconds a borrower waits for a connection, where the pool can be told.
PATIENCE = 2.0

#: Seconds a driver waits for the server's answer, or for a connection to be made.
ANSWER = 0.4


class Contestant:
    """A pool on a site, and how one asks through it.

    :param site: where its server is.
    """

    #: As in the table, on the command line, and its site.
    title: ClassVar[str]
    name: ClassVar[str]
    site: ClassVar[str]

    #: Errors a borrower may see, each with the documented sentence that tells of it;
    #: None: nothing is known of what the documentation says.
    documented: ClassVar[dict[str, str] | None] = None

    #: Does it let borrowers wait when all is in use?
    waits: ClassVar[bool] = True

    #: So many dials at a time it promises; None: it promises nothing.
    max_connecting: ClassVar[int | None] = None

    #: So many connections it may have beside its places.
    aside: ClassVar[int] = 0

    #: Does the borrower connect, in a time that is not part of its timeout?
    connects_in_borrower: ClassVar[bool] = False

    #: Does it let borrowers wait while the server is away?
    is_patient: ClassVar[bool] = False

    #: The pool, for the oracles that look into it.
    pool: Any

    def __init__(self, site: Site[Any]) -> None:
        raise NotImplementedError

    def take(self) -> Any:
        """A connection. May switch."""
        raise NotImplementedError

    def talk(self, conn: Any, tag: str) -> str:
        """What the server answers to *tag*. May switch."""
        raise NotImplementedError

    def give_back(self, conn: Any) -> None:
        """After everything went well. May switch."""
        raise NotImplementedError

    def break_off(self, conn: Any) -> None:
        """After something did not, as its documentation wants it. May switch."""
        raise NotImplementedError

    def ask(self, tag: str) -> str:
        """One question in the way the pool is mostly used. May switch."""
        conn = self.take()
        try:
            reply = self.talk(conn, tag)
        except BaseException:
            self.break_off(conn)
            raise
        self.give_back(conn)
        return reply

    def is_refusal(self, error: Exception) -> bool:
        """Whether the pool says that it is exhausted, and nothing has failed."""
        return False

    def books(self) -> str | None:
        """What is wrong in the pool's own books, if they can be read."""
        return None

    def close(self) -> None:
        """Close the pool and all its connections. May switch."""
        raise NotImplementedError


def kind_of(error: BaseException) -> str:
    """The name of an error, with the code where drivers tell their errors by codes."""
    # SQLAlchemy wraps what the driver raised.
    error = getattr(error, "orig", None) or error
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}"
    code = error.args[0] if error.args else None
    if kind.__module__.startswith("pymysql.") and isinstance(code, int):
        name += f" {code}"
    return name.removeprefix("builtins.")


class RedisClient(Contestant):
    """A redis-py client on a pool that ``redis.Redis`` takes."""

    site = "redis"

    #: The pool's class and options beside those of the driver.
    pool_class: ClassVar[tuple[str, str]]
    pool_options: ClassVar[dict[str, Any]] = {}

    def __init__(self, site: Site[Any]) -> None:
        redis = import_module("redis")
        module, name = self.pool_class
        never = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        self._refusal = redis.exceptions.MaxConnectionsError
        self.pool = getattr(import_module(module), name)(
            max_connections=LIMIT,
            socket_timeout=ANSWER,
            socket_connect_timeout=ANSWER,
            retry=never,
            **self.pool_options,
            **site.options,
        )
        self.client = redis.Redis(connection_pool=self.pool)

    def ask(self, tag: str) -> str:
        return str(self.client.echo(tag).decode())

    def take(self) -> Any:
        return self.pool.get_connection()

    def talk(self, conn: Any, tag: str) -> str:
        conn.send_command("ECHO", tag)
        return str(conn.read_response().decode())

    def give_back(self, conn: Any) -> None:
        self.pool.release(conn)

    def break_off(self, conn: Any) -> None:
        # As redis-py's own pipelines do.
        conn.disconnect()
        self.pool.release(conn)

    def is_refusal(self, error: Exception) -> bool:
        # The blocking pool has no class of its own for it.
        return (
            isinstance(error, self._refusal) or str(error) == "No connection available."
        )

    def close(self) -> None:
        self.client.close()
        self.pool.disconnect()


class Ours(Contestant):
    """A contestant whose books can be read."""

    #: Options of the pool beside the common ones.
    more: ClassVar[dict[str, Any]] = {}

    #: The :class:`geventpool.Pool` underneath.
    core: geventpool.Pool[Any]

    def books(self) -> str | None:
        """What ``geventpool.testing.check`` finds."""
        try:
            check(self.core)
        except AssertionError as broken:
            return str(broken) or "an assertion"
        return None


class OurRedis(Ours, RedisClient):
    """``geventpool.redis`` with its defaults."""

    title = "geventpool .redis"
    name = "redis"
    pool_class = ("geventpool.redis", "ConnectionPool")
    pool_options = {"timeout": PATIENCE}
    max_connecting = 4
    documented = {
        "geventpool.redis.errors.RedisPoolExhaustedError": (
            "``RedisPoolExhaustedError`` is raised"
        ),
        "redis.exceptions.ConnectionError": "redis-py's own error is raised",
        "redis.exceptions.TimeoutError": "redis-py's own error is raised",
        "redis.exceptions.InvalidResponse": "redis-py's own error is raised",
        # what the server answers to a command that has lost bytes
        "redis.exceptions.ResponseError": "redis-py's own error is raised",
    }

    def __init__(self, site: Site[Any]) -> None:
        super().__init__(site)
        self.core = self.pool.core

    def close(self) -> None:
        self.client.close()
        self.pool.shutdown(PATIENCE)


class OurMySQL(Ours):
    """``geventpool.mysql`` with its defaults."""

    title = "geventpool .mysql"
    name = "mysql"
    site = "mysql"
    max_connecting = 4
    #: The one that ends interrupted statements at the server.
    aside = 1
    documented = {
        "geventpool.PoolExhaustedError": "PoolExhaustedError no connection",
        **dict.fromkeys(
            (
                # refused, or no answer to the first packet
                "pymysql.err.OperationalError 2003",
                # lost while asking
                "pymysql.err.OperationalError 2006",
                "pymysql.err.OperationalError 2013",
                # killed, or the server is going down
                "pymysql.err.OperationalError 1927",
                "pymysql.err.OperationalError 1053",
                # closed by somebody else meanwhile
                "pymysql.err.InterfaceError 0",
                # bytes are missing
                "pymysql.err.InternalError",
            ),
            "as the driver raised it",
        ),
    }

    def __init__(self, site: Site[Any]) -> None:
        self.pool = self.core = import_module("geventpool.mysql").ConnectionPool(
            max_connections=LIMIT,
            timeout=PATIENCE,
            autocommit=True,
            **self.more,
            **timed(site.options),
        )

    def ask(self, tag: str) -> str:
        with self.pool.connection() as conn:
            return self.talk(conn, tag)

    def take(self) -> Any:
        return self.pool.acquire()

    def talk(self, conn: Any, tag: str) -> str:
        return select(conn, tag)

    def give_back(self, conn: Any) -> None:
        self.pool.release(conn)

    def break_off(self, conn: Any) -> None:
        self.pool.drop(conn)

    def is_refusal(self, error: Exception) -> bool:
        return is_plain_refusal(error)

    def close(self) -> None:
        self.pool.close(PATIENCE)


class Sockets(Contestant):
    """Plain sockets, on which the words of Redis are spoken."""

    site = "redis"

    def talk(self, conn: Any, tag: str) -> str:
        conn.send(b"*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n" % (len(tag), tag.encode()))
        reply = b""
        while reply.count(b"\r\n") < 2:
            more = conn.recv(1024)
            if not more:
                raise ConnectionError("the server has hung up")
            reply += more
        head, words, *rest = reply.split(b"\r\n")
        if not head.startswith(b"$") or rest != [b""]:
            raise ConnectionError(f"out of step: {reply!r}")
        return words.decode()

    def take(self) -> Any:
        return self.pool.acquire()

    def give_back(self, conn: Any) -> None:
        self.pool.release(conn)


class OurSockets(Ours, Sockets):
    """The core, with ``TcpConnection``."""

    title = "geventpool"
    name = "tcp"
    documented = {
        "geventpool.PoolExhaustedError": "PoolExhaustedError no connection",
        **dict.fromkeys(
            (
                "ConnectionError",
                "ConnectionRefusedError",
                "ConnectionResetError",
                "BrokenPipeError",
                "TimeoutError",
            ),
            "as the driver raised it",
        ),
    }

    def __init__(self, site: Site[Any]) -> None:
        self.pool = self.core = geventpool.Pool(
            geventpool.TcpConnection,
            {"timeout": ANSWER, "connect_timeout": ANSWER, **site.options},
            max_connections=LIMIT,
            timeout=PATIENCE,
            **self.more,
        )

    def ask(self, tag: str) -> str:
        with self.pool.connection() as conn:
            return self.talk(conn, tag)

    def break_off(self, conn: Any) -> None:
        self.pool.drop(conn)

    def is_refusal(self, error: Exception) -> bool:
        return is_plain_refusal(error)

    def close(self) -> None:
        self.pool.close(PATIENCE)


def timed(options: dict[str, Any]) -> dict[str, Any]:
    """PyMySQL's options with the common time-outs."""
    timeouts = ("connect_timeout", "read_timeout", "write_timeout")
    # Without the last one PyMySQL reads all trusted certificates at each connect.
    return {**options, **dict.fromkeys(timeouts, ANSWER), "ssl_disabled": True}


#: The column has the same name each time, as in a program. Without one it would be
#: named by the tag, and ``geventpool.mysql`` keeps up to 2000 descriptions of columns.
QUESTION = "SELECT %s AS tag"


def select(conn: Any, tag: str) -> str:
    """The tag, selected through a DB-API connection."""
    with conn.cursor() as cursor:
        cursor.execute(QUESTION, (tag,))
        return str(cursor.fetchone()[0])


def is_plain_refusal(error: Exception) -> bool:
    """Whether the core refuses because all is in use, and not for a failed dial."""
    return isinstance(error, geventpool.PoolExhaustedError) and error.__cause__ is None


WAIT = geventpool.Outage(wait=True)


class PatientRedis(OurRedis):
    """Borrowers wait while the server is away."""

    title = "geventpool .redis, waiting"
    name = "redis-waiting"
    is_patient = True
    pool_options = {**OurRedis.pool_options, "outage": WAIT}


class SharedRedis(OurRedis):
    """The commands of all greenlets share one connection."""

    title = "geventpool .redis, shared"
    name = "redis-shared"
    pool_options: ClassVar[dict[str, Any]] = {
        **OurRedis.pool_options,
        "auto_pipeline": True,
    }


class PatientMySQL(OurMySQL):
    """Borrowers wait while the server is away."""

    title = "geventpool .mysql, waiting"
    name = "mysql-waiting"
    is_patient = True
    more = {"outage": WAIT}


class PatientSockets(OurSockets):
    """Borrowers wait while the server is away."""

    title = "geventpool, waiting"
    name = "tcp-waiting"
    is_patient = True
    more = {"outage": WAIT}


OURS: dict[str, type[Contestant]] = {
    each.name: each
    for each in (
        OurRedis,
        OurMySQL,
        OurSockets,
        PatientRedis,
        SharedRedis,
        PatientMySQL,
        PatientSockets,
    )
}
