"""The interface of every pool that is compared, and what adapters share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

import gevent

R = TypeVar("R")

#: Connections of each pool.
CONNECTIONS = 10

OURS = "geventpool"
FLOOR = "gevent queue"
#: The same load at a "pool" that lends one connection to everybody at once. No pool can
#: be measured to make more loans than this.
GENERATOR = "the generator alone"
BLOCKING = "redis Blocking"
PLAIN = "redis Pool"
QUEUE_POOL = "QueuePool"
POOLED_DB = "PooledDB"
GSOCKETPOOL = "gsocketpool"
MYSQL_POOL = "pymysql-pool"
HTTP_POOL = "geventhttpclient"
PSYCOPG_POOL = "psycopg_pool"

#: Seconds between two attempts of a pool that polls, where its user can choose. Of 1,
#: 3, 10, 30 and 100 ms this is the best for loans of a millisecond.
POLL = 0.003

#: Seconds in which all connections must be available after a run.
PATIENCE = 3.0


@dataclass
class PoolAdapter:
    """One pool, behind the verbs that the workloads use.

    :ivar block: its own ``with`` block, if it has one.
    :ivar refusals: what it raises when it is exhausted; the load then tries again.
    :ivar discard: gives a connection back after an interrupted request; None: *release*
        does that too.
    :ivar talk: sends a tag over a connection, and returns the tag that came back.
    :ivar request: does the same as a program does, borrowing included; None for fakes.
    :ivar commits: whether *block* commits at a clean end.
    :ivar aside: connections that it may have beside its limit.
    :ivar client: the driver's client that uses the pool, if the driver has one.
    """

    name: str
    acquire: Callable[[], Any]
    release: Callable[[Any], object]
    close: Callable[[], object]
    block: Callable[[], AbstractContextManager[Any]] | None = None
    refusals: tuple[type[Exception], ...] = ()
    discard: Callable[[Any], object] | None = None
    talk: Callable[[Any, str], str] | None = None
    request: Callable[[str], str] | None = None
    commits: bool = False
    aside: int = 0
    client: Any = None

    def __post_init__(self) -> None:
        if self.talk is not None:
            self.request = self.lending(self.talk)

    def lending(self, talk: Callable[..., R]) -> Callable[..., R]:
        """Return what borrows, talks, and gives back."""
        loan = self.block or self.loan

        def request(*tag: str) -> R:
            with loan() as conn:
                return talk(conn, *tag)

        return request

    @contextmanager
    def loan(self) -> Iterator[Any]:
        """Borrow a connection for a block. May switch."""
        conn = self.acquire()
        try:
            yield conn
        except BaseException:
            (self.discard or self.release)(conn)
            raise
        self.release(conn)

    def available(self, limit: int, patience: float = PATIENCE) -> int:
        """Return how many of *limit* connections can be borrowed at once.

        A lost connection cannot. May switch.
        """
        lent: list[Any] = []
        try:
            with gevent.Timeout(patience):
                while len(lent) < limit:
                    lent.append(self.acquire())
        except (Exception, gevent.Timeout):
            # Refused, or waited too long: the number says so.
            pass
        for conn in lent:
            self.release(conn)
        return len(lent)


#: Takes the limit, and then whether to lend fakes, or the options of the driver.
Builder = Callable[..., PoolAdapter]
Builders = dict[str, Builder]

#: A query that lasts as long as queries do, so that connections are scarce and not the
#: CPU time of this process.
QUERY, QUERY_SECONDS = "SELECT %s, SLEEP(%s)", 0.003


def select(conn: Any, tag: str) -> str:
    """Select the tag over a DB-API connection. May switch."""
    with conn.cursor() as cursor:
        cursor.execute(QUERY, (tag, QUERY_SECONDS))
        return str(cursor.fetchone()[0])


def echo(conn: Any, tag: str) -> str:
    """Send the tag over a ``TcpConnection`` to an echo server. May switch."""
    conn.send(tag.encode() + b"\n")
    reply = b""
    while not reply.endswith(b"\n"):
        part = conn.recv(4096)
        if not part:
            raise ConnectionError("the server closed the connection")
        reply += part
    return reply.decode().rstrip("\n")


def redis_adapter(
    name: str, pool: Any, close: Callable[[], object], **more: Any
) -> PoolAdapter:
    """Adapt a pool that ``redis.Redis(connection_pool=...)`` takes."""
    redis = import_module("redis")
    client = redis.Redis(connection_pool=pool)

    def discard(conn: Any) -> None:
        # As redis-py's own pipelines do.
        conn.disconnect()
        pool.release(conn)

    return PoolAdapter(
        name,
        pool.get_connection,
        pool.release,
        close,
        refusals=(redis.ConnectionError,),
        discard=discard,
        request=lambda tag: client.echo(tag).decode(),
        client=client,
        **more,
    )
