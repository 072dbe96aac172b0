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

from gevent import monkey

from benchmarks import adapters
from benchmarks.adapters import FLOOR, OURS, at_server, closing
from benchmarks.adapters.base import CONNECTIONS
from benchmarks.cycle import blocks, borrowing, each, repeated
from benchmarks.fakes import silent
from benchmarks.report import Column, Report, Section
from benchmarks.rounds import Sample, Scale, Series, interleave

POLLED = "gevent queue, one poll"
LOAN, COMMAND = "a loan", "a command's loan"

#: A command on a client's own connection; it is subtracted from the other commands.
OWN = "a command without a pool"

#: Do as many loans as they are told.
Cycles = dict[str, Callable[[int], object]]


def run(scale: Scale) -> Report:
    """Measure the loans of all kinds in one comparison. May switch."""
    report = Report("loans", "what does a loan of a real connection cost?")
    with ExitStack() as stack:
        kinds = [stack.enter_context(kind()) for kind in (_sockets, _redis, _mysql)]
        cycles = {name: each for kind in kinds for name, each in kind.items()}
        turns = {name: repeated(each, scale.slice) for name, each in cycles.items()}
        series = interleave(turns, scale.rounds, "loans")
    series = dict(_commands_less_own(series))
    column = Column("each", each, to=("floor",))
    section = Section("a loan of a real connection, nothing sent", FLOOR)
    report.sections.append(section.fill(series, [column], first="loan"))
    return report


@contextmanager
def _at_server(kind: str, **options: Any) -> Iterator[Cycles]:
    """Yield the loans of all pools for that kind of server."""
    with closing(at_server(kind, CONNECTIONS, **options)) as pools:
        yield {
            f"{name}, {kind}, {LOAN}": blocks(pool.block)
            if pool.block
            else borrowing(pool)
            for name, pool in pools.items()
        }


@contextmanager
def _sockets() -> Iterator[Cycles]:
    queue, pool = (
        adapters.ours.gevent_queue_nowait(CONNECTIONS),
        adapters.ours.fake(CONNECTIONS),
    )
    # gevent's replacement would wait for the event loop.
    poll = monkey.get_original("select", "poll")()
    poll.register(silent().fileno(), select.POLLIN)
    take, give, ask = queue.acquire, queue.release, poll.poll

    def polling(count: int) -> None:
        for _ in range(count):
            conn = take()
            ask(0)
            give(conn)

    echo = import_module("tests.peers").Echo
    with echo() as server, _at_server("echo", **server.options) as loans:
        yield {FLOOR: borrowing(queue), POLLED: polling, OURS: borrowing(pool), **loans}


@contextmanager
def _mysql() -> Iterator[Cycles]:
    with import_module("tests.servers").MariaDBServer() as server:
        options = {**server.client_options, "autocommit": True}
        with _at_server("mysql", **options) as loans:
            yield loans


@contextmanager
def _redis() -> Iterator[Cycles]:
    redis = import_module("redis")

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

    def commands(client: Any) -> Callable[[int], None]:
        def cycles(count: int) -> None:
            for _ in range(count):
                client.get("key")

        return cycles

    with import_module("tests.servers").RedisServer() as server:
        options = {**server.client_options, "connection_class": Silent}
        own = redis.Redis(
            connection_pool=redis.ConnectionPool(**options),
            single_connection_client=True,
        )
        with closing(at_server("redis", CONNECTIONS, **options)) as pools:
            ours = {f"{name}, {COMMAND}": pools[name].client for name in pools}
            clients = {OWN: own, **ours}
            yield {name: commands(client) for name, client in clients.items()}
            own.close()
            own.connection_pool.disconnect()


def _commands_less_own(
    series: dict[str, Series[Sample]],
) -> Iterator[tuple[str, Series[Sample]]]:
    own = series.pop(OWN, None)
    for name, entry in series.items():
        if COMMAND in name and own is not None and entry.samples:
            pairs = zip(entry.samples, own.samples, strict=True)
            samples = [
                replace(mine, wall=mine.wall - alone.each * mine.count)
                for mine, alone in pairs
            ]
            yield name, Series(name, samples)
        else:
            yield name, entry
