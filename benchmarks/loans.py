"""What does a loan of a real connection cost, beside the bare queue?

The connections are open to real servers, but nothing is sent over them: only borrowing
and returning is measured, with the defaults of every pool. A socket is checked before
it is lent, which the bare queue with one ``poll`` does too. A pool that sends something
at each loan, such as a ROLLBACK, pays for that round trip here.

The loan of a Redis command is what the pool adds to a command: the time of a command
whose sending and reading do nothing, less the same on a client with a connection of its
own.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

from gevent import monkey, socket

from benchmarks import adapters
from benchmarks.adapters import FLOOR, OURS, PoolAdapter
from benchmarks.cycle import blocks, borrowing, each, repeated
from benchmarks.report import Column, Report, Section
from benchmarks.rounds import Sample, Scale, Series, interleave

LIMIT = 10
POLLED = "gevent queue, one poll"
TCP = "geventpool, TcpConnection"
REDIS = "geventpool.redis, a command's loan"
MYSQL = "geventpool.mysql, a loan"

#: A command on a client's own connection; it is subtracted from the other commands.
OWN = "a command without a pool"

Turns = dict[str, Callable[[], Sample]]


def run(scale: Scale) -> Report:
    """Measure the loans of all kinds in one comparison. May switch."""
    report = Report("loans", "what does a loan of a real connection cost?")
    turns: Turns = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        for kind in (_sockets, _redis, _mysql):
            try:
                turns.update(stack.enter_context(kind(scale.slice)))
            except Exception as error:
                # Without one server the others can still be measured.
                missing[kind.__name__.strip("_")] = f"{type(error).__name__}: {error}"
        series = interleave(turns, scale.rounds, "loans")
    series = dict(_commands_less_own(series))
    column = Column("each", each, spread=True, ratios={"to the floor": FLOOR})
    section = Section("a loan of a real connection, nothing sent", key="loans")
    section.floor = FLOOR
    report.sections.append(section.fill(series, [column], missing, "loan"))
    return report


def _turn(pool: PoolAdapter, seconds: float) -> Callable[[], Sample]:
    cycles = blocks(pool.block) if pool.block else borrowing(pool)
    return repeated(cycles, seconds)


@contextmanager
def _sockets(seconds: float) -> Iterator[Turns]:
    pools = {
        FLOOR: adapters.ours.gevent_queue_nowait(LIMIT),
        OURS: adapters.ours.fake(LIMIT),
    }
    with import_module("tests.peers").Echo() as server:
        options = server.options
        pools[TCP] = adapters.ours.tcp(LIMIT, **options)
        try:
            pools["gsocketpool, TcpConnection"] = adapters.peers.gsocketpool(
                LIMIT, **options
            )
        except ImportError:
            pass
        turns = {
            name: repeated(borrowing(each), seconds) for name, each in pools.items()
        }
        one, other = socket.socketpair()
        yield {POLLED: repeated(_polling(one), seconds), **turns}
        one.close()
        other.close()
        adapters.close(*pools.values())


def _polling(sock: Any) -> Callable[[int], None]:
    queue = adapters.ours.gevent_queue_nowait(LIMIT)
    # gevent's replacement would wait for the event loop.
    poll = monkey.get_original("select", "poll")()
    poll.register(sock.fileno(), select.POLLIN)
    take, give, ask = queue.acquire, queue.release, poll.poll

    def cycles(count: int) -> None:
        for _ in range(count):
            conn = take()
            ask(0)
            give(conn)

    return cycles


# Redis


@contextmanager
def _redis(seconds: float) -> Iterator[Turns]:
    redis = import_module("redis")
    package = import_module("geventpool.redis")

    class Silent(redis.Connection):  # type: ignore[misc]
        """A real connection whose commands are neither sent nor answered."""

        is_silent = False

        def connect(self) -> None:
            self.is_silent = False
            super().connect()
            self.is_silent = True

        def send_command(self, *args: Any, **options: Any) -> None:
            if not self.is_silent:
                super().send_command(*args, **options)

        def read_response(self, *args: Any, **options: Any) -> Any:
            if not self.is_silent:
                return super().read_response(*args, **options)
            return b"value"

    with import_module("tests.servers").RedisServer() as server:
        options: dict[str, Any] = {"host": server.host, "port": server.port}
        options.update(connection_class=Silent, max_connections=LIMIT)
        pools = {
            REDIS: package.ConnectionPool(**options),
            "redis Blocking, a command's loan": redis.BlockingConnectionPool(**options),
        }
        own = redis.Redis(
            connection_pool=redis.ConnectionPool(**options),
            single_connection_client=True,
        )
        clients = {
            name: redis.Redis(connection_pool=each) for name, each in pools.items()
        }
        clients[OWN] = own
        yield {
            name: repeated(_commanding(client), seconds)
            for name, client in clients.items()
        }
        own.close()
        for pool in (own.connection_pool, *pools.values()):
            pool.disconnect()


def _commanding(client: Any) -> Callable[[int], None]:
    def cycles(count: int) -> None:
        for _ in range(count):
            client.get("key")

    return cycles


def _commands_less_own(
    series: dict[str, Series[Sample]],
) -> Iterator[tuple[str, Series[Sample]]]:
    own = series.pop(OWN, None)
    for name, entry in series.items():
        if "command's loan" in name and own is not None and entry.samples:
            pairs = zip(entry.samples, own.samples, strict=True)
            samples = [
                replace(mine, wall=mine.wall - alone.each * mine.count)
                for mine, alone in pairs
            ]
            yield name, Series(name, samples)
        else:
            yield name, entry


# MySQL


@contextmanager
def _mysql(seconds: float) -> Iterator[Turns]:
    with import_module("tests.servers").MariaDBServer() as server:
        options = {**server.client_options, "autocommit": True}
        pools: dict[str, PoolAdapter] = {}
        for name, build in adapters.AT_SERVERS["mysql"].items():
            title = MYSQL if name == OURS else f"{name}, a loan"
            try:
                pools[title] = build(LIMIT, **options)
            except ImportError:
                continue
        yield {name: _turn(pool, seconds) for name, pool in pools.items()}
        adapters.close(*pools.values())
