"""
A server of the user's own, as ``advise`` meets it: through our pool, with its driver.

It is asked nothing but PING, SELECT 1 and what it says about its own limit; nothing is
written. What is shown of its address never has the password.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

import gevent
from gevent.event import Event

from benchmarks.advice import Point, Room
from geventpool import PoolListener

#: Seconds that connecting, and one answer, may take.
PATIENCE = 3.0


class BadAddressError(ValueError):
    """The URL can't be used; the message does not have the password."""


class _Dials(PoolListener):
    """Remembers how long each dial took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def opened(self, conn: Any, seconds: float) -> None:
        self.seconds.append(seconds)


class Subject:
    """
    One server and our pool before it.

    :param url: of the server.
    :raises BadAddressError: it can't be read.
    """

    #: What it is asked.
    questions: str

    def __init__(self, url: str) -> None:
        self.dials = _Dials()
        #: Where it is, without the password.
        self.place = ""
        self.secret: str | None = None
        self.pool: Any = None

    def acquire(self) -> Any:
        """A connection. **May switch.**"""
        return self.pool.acquire()

    def release(self, conn: Any) -> None:
        """Give it back."""
        self.pool.release(conn)

    def ask(self, conn: Any) -> None:
        """One round trip. **May switch.**"""
        raise NotImplementedError

    def room(self) -> Room:
        """What it allows; our own connections are not counted. **May switch.**"""
        raise NotImplementedError

    def resize(self, size: int) -> None:
        """Let the pool have that many connections, and open them. **May switch.**"""
        self.limit(size)
        borrowed, everyone = 0, Event()

        def borrow() -> None:
            nonlocal borrowed
            conn = self.acquire()
            borrowed += 1
            if borrowed == size:
                everyone.set()
            try:
                everyone.wait()
            finally:
                self.release(conn)

        opening = [gevent.spawn(borrow) for _ in range(size)]
        try:
            gevent.joinall(opening, raise_error=True)
        finally:
            gevent.killall(opening)

    def limit(self, size: int) -> None:
        """Let the pool have that many connections."""
        self.pool.resize(size)

    def close(self) -> None:
        """Hang up. **May switch.**"""
        if self.pool is not None:
            self.pool.close(timeout=1)

    def described(self, error: BaseException) -> str:
        """What went wrong, in words that do not have the password."""
        text = f"{type(error).__name__}: {error}"
        return text.replace(self.secret, "***") if self.secret else text


class RedisSubject(Subject):
    """A Redis."""

    questions = "PING and INFO clients"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        try:
            options = import_module("redis.connection").parse_url(url)
        except Exception:
            # Its message may quote a part of the URL, and that the password.
            raise BadAddressError(
                "redis-py can't read it; it should look like "
                "redis://user:password@host:port/db, with what is special in it "
                "percent-encoded"
            ) from None
        self.secret = options.get("password")
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        where = options.get("path") or f"{host}:{port}"
        self.place = f"Redis at {where}"
        package = import_module("geventpool.redis")
        self.pool = package.ConnectionPool.from_url(
            url,
            max_connections=1,
            timeout=None,
            socket_connect_timeout=PATIENCE,
            socket_timeout=PATIENCE,
            retry=import_module("redis.retry").Retry(
                import_module("redis.backoff").NoBackoff(), 0
            ),
            listeners=[self.dials],
        )

    def acquire(self) -> Any:
        """A connection of redis-py. **May switch.**"""
        return self.pool.get_connection()

    def limit(self, size: int) -> None:
        """Redis-py has its own name for it."""
        self.pool.max_connections = size

    def ask(self, conn: Any) -> None:
        """PING. **May switch.**"""
        conn.send_command("PING")
        conn.read_response()

    def room(self) -> Room:
        """As INFO has it; an account may be forbidden to ask. **May switch.**"""
        client = import_module("redis").Redis(connection_pool=self.pool)
        try:
            info = client.info("clients")
        except import_module("redis").ResponseError:
            return Room()
        maximum = info.get("maxclients")
        ours = len(self.dials.seconds)
        return Room(maximum, max(0, info.get("connected_clients", 0) - ours))

    def close(self) -> None:
        """Hang up. **May switch.**"""
        if self.pool is not None:
            self.pool.shutdown(timeout=1)


class MySQLSubject(Subject):
    """A MySQL or MariaDB."""

    questions = "SELECT 1, SELECT @@max_connections and SHOW STATUS"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        try:
            package = import_module("geventpool.mysql")
            options = import_module("geventpool.mysql.url").parse_url(url)
            self.secret = options.get("password")
            self.pool = package.ConnectionPool.from_url(
                url,
                max_connections=1,
                timeout=None,
                autocommit=True,
                connect_timeout=PATIENCE,
                read_timeout=PATIENCE,
                write_timeout=PATIENCE,
                listeners=[self.dials],
            )
        except (TypeError, ValueError) as error:
            raise BadAddressError(str(error)) from None
        host = options.get("unix_socket") or options.get("host", "localhost")
        self.place = f"MySQL at {host}:{options.get('port', 3306)}"

    def ask(self, conn: Any) -> None:
        """SELECT 1. **May switch.**"""
        with conn.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchall()

    def room(self) -> Room:
        """The server's limit, or this account's if it is lower. **May switch.**"""
        with self.pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT @@max_connections, @@max_user_connections")
            maximum, own = map(int, cursor.fetchone())
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
            row = cursor.fetchone()
        others = max(0, int(row[1]) - len(self.dials.seconds)) if row else 0
        if 0 < own < maximum:
            # How much of it this account uses elsewhere is nobody's to ask.
            return Room(own, 0)
        return Room(maximum, others)


def loaded(
    subject: Subject,
    size: int,
    greenlets: int,
    hold: float,
    seconds: float,
    trip: float = 0.0,
) -> Point:
    """
    What a crowd gets through a pool of that size, already open. **May switch.**

    Everyone borrows, asks once, keeps the connection for *hold* seconds, gives it back
    and wants it again.

    :param trip: seconds that asking takes where there is nothing else to do.
    """
    clock = time.perf_counter
    waits: list[float] = []
    asked: dict[int, float] = {}

    failures: list[Exception] = []

    def want(number: int) -> None:
        try:
            want_again_and_again(number)
        except Exception as error:
            # One of them is raised below; there may be hundreds of them.
            failures.append(error)

    def want_again_and_again(number: int) -> None:
        while True:
            began = asked[number] = clock()
            conn = subject.acquire()
            waits.append(clock() - began)
            del asked[number]
            subject.ask(conn)
            gevent.sleep(hold)
            subject.release(conn)

    crowd = [gevent.spawn(want, number) for number in range(greenlets)]
    try:
        # Until the crowd has sorted itself.
        gevent.sleep(seconds / 5)
        del waits[:]
        cpu, began = time.process_time(), clock()
        gevent.sleep(seconds * 4 / 5)
        now, spent = clock(), time.process_time() - cpu
        if failures:
            raise failures[0]
        took = now - began
        throughput = len(waits) / took
        # Little's law: right also for a line in which one waits longer than this took.
        wait = (greenlets - min(size, greenlets)) / throughput if waits else took
        waits += [now - since for since in asked.values()]
        waits.sort()
        p99 = waits[min(len(waits) - 1, int(len(waits) * 0.99))] if waits else 0.0
        busy = min(size, greenlets) / throughput - hold - trip if throughput else 0.0
        return Point(
            size, throughput, wait, max(p99, wait), spent / took, max(0.0, busy)
        )
    finally:
        gevent.killall(crowd)
