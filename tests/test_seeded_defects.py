"""Programs with a seeded defect are named, and sound programs are not.

Each defect holds a connection while it waits for something else: what exhausts pools in
practice.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import gevent
import pytest
from gevent import subprocess
from gevent.event import AsyncResult, Event
from gevent.lock import BoundedSemaphore
from gevent.pool import Pool as GreenletPool
from gevent.queue import Queue
from gevent.server import StreamServer

from geventpool import Pool, TcpConnection
from geventpool._core import idle_holds
from geventpool.testing import ScriptedConnector
from tests import parts

FOREVER = 1000.0


class World:
    """What the programs have: a pool, and things to wait for that do not happen."""

    def __init__(self, pool: Pool[Any]) -> None:
        self.pool = pool
        self.event = Event()
        self.result: AsyncResult[None] = AsyncResult()
        self.queue: Queue[None] = Queue()
        self.lock = BoundedSemaphore()
        self.lock.acquire()
        self.near, self.far = socket.socketpair()
        self.other: Pool[Any] = Pool(ScriptedConnector(), max_connections=1)
        self.kept = self.other.acquire()

    def query(self, conn: Any) -> None:
        conn.send(b"answer")
        conn.recv()

    def close(self) -> None:
        self.near.close()
        self.far.close()
        self.other.release(self.kept)
        self.other.close()


def pauses(world: World) -> None:
    with world.pool.connection():
        gevent.sleep(FOREVER)


def pauses_with_the_standard_library(world: World) -> None:
    with world.pool.connection():
        time.sleep(FOREVER)


def pauses_after_a_query(world: World) -> None:
    with world.pool.connection() as conn:
        world.query(conn)
        gevent.sleep(FOREVER)


def waits_for_a_lock(world: World) -> None:
    with world.pool.connection(), world.lock:
        pass


def waits_for_an_event(world: World) -> None:
    with world.pool.connection():
        world.event.wait()


def waits_for_a_result(world: World) -> None:
    with world.pool.connection():
        world.result.get()


def waits_for_a_queue(world: World) -> None:
    with world.pool.connection():
        world.queue.get()


def waits_for_another_service(world: World) -> None:
    near, far = socket.socketpair()
    with near, far, world.pool.connection():
        near.recv(1)


def waits_for_another_service_by_select(world: World) -> None:
    with world.pool.connection():
        select.select([world.near], [], [])


def waits_for_another_service_by_poll(world: World) -> None:
    poll = select.poll()
    poll.register(world.near, select.POLLIN)
    with world.pool.connection():
        poll.poll()


def waits_for_another_pool(world: World) -> None:
    with world.pool.connection():
        world.other.acquire(timeout=FOREVER)


def waits_for_a_process(world: World) -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with world.pool.connection():
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            try:
                process.wait()
            finally:
                process.kill()


def waits_for_a_greenlet(world: World) -> None:
    worker = gevent.spawn(world.event.wait)
    try:
        with world.pool.connection():
            worker.join()
    finally:
        worker.kill()


def waits_for_many_greenlets(world: World) -> None:
    group = GreenletPool(2)
    try:
        with world.pool.connection():
            group.map(lambda number: world.event.wait(), [1, 2])
    finally:
        group.kill()


def waits_for_any_of_several(world: World) -> None:
    with world.pool.connection():
        gevent.wait([world.event], count=1)


def waits_in_a_function_of_a_function(world: World) -> None:
    def inner() -> None:
        world.event.wait()

    def outer() -> None:
        inner()

    with world.pool.connection():
        outer()


def borrows_in_a_function_that_returns(world: World) -> None:
    def borrow() -> Any:
        return world.pool.acquire()

    conn = borrow()
    try:
        world.event.wait()
    finally:
        world.pool.release(conn)


def holds_in_a_generator(world: World) -> None:
    def rows() -> Iterator[int]:
        with world.pool.connection():
            yield from range(10)

    with closing(rows()) as found:  # type: ignore[type-var]
        for _ in found:
            world.event.wait()


def holds_in_a_context_manager(world: World) -> None:
    @contextmanager
    def transaction() -> Iterator[Any]:
        with world.pool.connection() as conn:
            yield conn

    with transaction():
        world.event.wait()


def holds_in_a_stack_of_contexts(world: World) -> None:
    with ExitStack() as stack:
        stack.enter_context(world.pool.connection())
        world.event.wait()


DEFECTS: list[Callable[[World], None]] = [
    pauses,
    pauses_with_the_standard_library,
    pauses_after_a_query,
    waits_for_a_lock,
    waits_for_an_event,
    waits_for_a_result,
    waits_for_a_queue,
    waits_for_another_service,
    waits_for_another_service_by_select,
    waits_for_another_service_by_poll,
    waits_for_another_pool,
    waits_for_a_process,
    waits_for_a_greenlet,
    waits_for_many_greenlets,
    waits_for_any_of_several,
    waits_in_a_function_of_a_function,
    borrows_in_a_function_that_returns,
    holds_in_a_generator,
    holds_in_a_context_manager,
    holds_in_a_stack_of_contexts,
]


def asks_slow_queries(world: World) -> None:
    with world.pool.connection() as conn:
        conn.send(b"silence")
        conn.recv()


def asks_many_queries(world: World) -> None:
    while True:
        with world.pool.connection() as conn:
            for _ in range(10):
                world.query(conn)


def lets_others_run_between_queries(world: World) -> None:
    while True:
        with world.pool.connection() as conn:
            world.query(conn)
            gevent.sleep(0)
            world.query(conn)


def pauses_without_a_connection(world: World) -> None:
    while True:
        with world.pool.connection() as conn:
            world.query(conn)
        gevent.sleep(0)


SOUND: list[Callable[[World], None]] = [
    asks_slow_queries,
    asks_many_queries,
    lets_others_run_between_queries,
    pauses_without_a_connection,
]


def serve(sock: Any, address: Any) -> None:
    """Answer what is to be answered."""
    # The programs are killed, with what they had not read.
    with suppress(ConnectionError):
        while data := sock.recv(100):
            if data != b"silence":
                sock.sendall(data)


@pytest.fixture
def world() -> Iterator[World]:
    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    options = {"host": "127.0.0.1", "port": server.server_port}
    with Pool(TcpConnection, options, max_connections=2) as pool:
        world = World(pool)
        yield world
        world.close()
    server.stop(timeout=1)


def sampled(world: World, program: Callable[[World], None]) -> list[Any]:
    """The lines that are named when some greenlets run the program."""
    pool = world.pool
    holds = parts.idle_holds(pool)
    done, left = Event(), [6 * idle_holds.ENOUGH]

    def beat() -> None:
        if len(pool.lent_connections()) == 2:
            holds.sample()
            left[0] -= 1
        if not left[0]:
            timer.stop()
            done.set()

    # In the hub, as the pool does it while greenlets wait, but more often.
    timer = gevent.get_hub().loop.timer(0.001, 0.001)
    timer.start(beat)
    greenlets = [gevent.spawn(program, world) for _ in range(4)]
    try:
        assert done.wait(60)
    finally:
        timer.close()
    found = parts.idle_holds(pool).report()
    gevent.killall(greenlets)
    return found


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_a_seeded_defect_is_named(
    defect: Callable[[World], None], world: World
) -> None:
    """With the line of its own source that borrows."""
    found = sampled(world, defect)
    assert found, "not named"
    lines = range(*span(defect))
    for hold in found:
        file, line = hold.borrowed_at.split(" in ")[0].rsplit(":", 1)
        assert file == __file__ and int(line) in lines


def span(function: Callable[..., Any]) -> tuple[int, int]:
    """The first line of a function, and the line behind its last."""
    code: Any = function.__code__  # type: ignore[attr-defined]
    codes = [code, *(each for each in code.co_consts if hasattr(each, "co_lines"))]
    last = max(line for each in codes for *_, line in each.co_lines() if line)
    return code.co_firstlineno, last + 1


@pytest.mark.parametrize("program", SOUND, ids=lambda program: program.__name__)
def test_a_sound_program_is_not_named(
    program: Callable[[World], None], world: World
) -> None:
    """A false alarm costs more trust than a missed defect."""
    assert sampled(world, program) == []
