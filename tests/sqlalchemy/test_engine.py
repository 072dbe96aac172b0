"""Engines and ORM sessions on GreenletPool, with SQLite and a real MariaDB."""

from __future__ import annotations

import gc
import os
import signal
import socket
from contextlib import suppress
from types import SimpleNamespace

import gevent
import pymysql
import pytest
from gevent.event import Event
from gevent.monkey import get_original
from sqlalchemy import Column, Integer, create_engine, event, exc, text
from sqlalchemy.orm import Session, declarative_base, sessionmaker
from sqlalchemy.pool.base import ResetStyle

from geventpool.sqlalchemy import GreenletPool, reset_server_session
from geventpool.sqlalchemy.records import stop_streaming
from geventpool.testing import wait_until
from tests import parts
from tests.mysql.conftest import is_running
from tests.pauses import give_up_after, hang
from tests.sqlalchemy.conftest import core, through

Base = declarative_base()


class Number(Base):  # type: ignore[misc, valid-type]
    """A row of the table of the fixture."""

    __tablename__ = "numbers"
    i = Column(Integer, primary_key=True)
    v = Column(Integer)


def connection_id(conn):
    return conn.scalar(text("SELECT CONNECTION_ID()"))


def use(engine, statement="SELECT 1"):
    with engine.connect() as conn:
        return conn.scalar(text(statement))


def server_sees(server):
    """How many connections other than our own the server has of the test account."""
    return server.ask(
        "SELECT COUNT(*) FROM information_schema.processlist "
        f"WHERE user='{server.user}' AND id<>CONNECTION_ID() AND db IS NOT NULL"
    )[0][0]


# Arguments


def test_every_option_goes_through_create_engine():
    """SQLAlchemy's under their names there, ours under their own."""
    engine = create_engine(
        "sqlite://",
        poolclass=GreenletPool,
        pool_size=7,
        max_overflow=3,
        pool_timeout=2.5,
        pool_recycle=99,
        pool_pre_ping=True,
        pool_reset_on_return="commit",
        pool_use_lifo=True,
        pool_logging_name="mine",
        echo_pool=True,
        max_waiting=4,
        max_idle=50.0,
        min_connections=0,
        reclaim=False,
    )
    pool = engine.pool
    assert isinstance(pool, GreenletPool)
    assert (pool.size(), pool._max_overflow, pool.timeout()) == (7, 3, 2.5)
    assert (pool._recycle, pool._pre_ping, pool._pool.use_lifo) == (99, True, True)
    assert pool._reset_on_return is ResetStyle.reset_commit and pool.echo is True
    assert pool.core.name == "mine" and pool.core.max_connections == 10
    assert parts.option(pool.core, "max_waiting") == 4
    assert not parts.option(pool.core, "reclaim")
    assert use(engine) == 1
    engine.dispose()


def test_sqlite_in_a_file(tmp_path):
    """Another dialect, without a socket: writers follow each other."""
    engine = create_engine(
        f"sqlite:///{tmp_path}/file.db", poolclass=GreenletPool, pool_size=2
    )
    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE numbers (i INTEGER)"))

    def write(number):
        with engine.begin() as conn:
            conn.execute(text(f"INSERT INTO numbers VALUES ({number})"))

    gevent.joinall([gevent.spawn(write, n) for n in range(9)], raise_error=True)
    assert use(engine, "SELECT COUNT(*) FROM numbers") == 9
    engine.dispose()


def test_a_connection_made_anew_is_not_judged_by_its_old_socket(
    make_engine, mariadb_server
):
    """After one reconnect the connection stays, loan after loan."""
    engine = make_engine()

    def session():
        return use(engine, "SELECT CONNECTION_ID()")

    first = session()
    assert session() == first
    mariadb_server.hang_up()
    (record,) = engine.pool.core.idle_connections()
    wait_until(lambda: not record.is_quiet(), "hung up")
    second = session()
    assert second != first
    assert [session(), session()] == [second] * 2


# Limits and fairness, as the server sees them


def test_the_server_never_sees_more(make_engine, mariadb_server):
    """Size and overflow, however many greenlets ask."""
    mariadb_server.hang_up()
    before = server_sees(mariadb_server)
    engine = make_engine(pool_size=2, max_overflow=1)
    seen = []

    def work(number):
        with engine.connect() as conn:
            conn.execute(text("SELECT SLEEP(0.002)"))
            if number % 10 == 0:
                seen.append(server_sees(mariadb_server))

    gevent.joinall([gevent.spawn(work, n) for n in range(40)], raise_error=True)
    assert max(seen) - before <= 3
    wait_until(lambda: server_sees(mariadb_server) - before == 2, "overflow is closed")


def test_nobody_starves(make_engine):
    """Greenlets that borrow again at once are served as often as each other."""
    engine = make_engine(pool_size=2)
    loans = dict.fromkeys(range(10), 0)

    def work(name):
        while max(loans.values()) < 10:
            # Else an answer may be there before anybody has to wait for it.
            use(engine, "SELECT SLEEP(0.001)")
            loans[name] += 1

    gevent.joinall([gevent.spawn(work, name) for name in loans], raise_error=True)
    assert min(loans.values()) >= 7


# Interruptions


def test_killed_in_a_query(make_engine, mariadb_server):
    """The answer to it reaches nobody, with and without a block."""
    engine = make_engine()

    def with_block():
        with engine.connect() as conn:
            conn.execute(text("SELECT SLEEP(5)"))

    def with_raw_block():
        with engine.raw_connection() as conn:
            conn.cursor().execute("SELECT SLEEP(5)")

    def without():
        conn = engine.raw_connection()
        conn.cursor().execute("SELECT SLEEP(5)")

    for number, work in enumerate((with_block, with_raw_block, without)):
        victim = gevent.spawn(work)
        wait_until(lambda: is_running(mariadb_server, "SLEEP(5)"), "running")
        victim.kill()
        assert use(engine, f"SELECT {number}") == number
    assert core(engine).size == 1


@pytest.mark.parametrize("kind", ["kill", "timeout"])
@pytest.mark.parametrize("block", [True, False])
def test_half_a_statement_on_the_wire(make_engine, proxy, kind, block, hub_errors):
    """Neither who is interrupted in a write nor the next borrower hangs."""
    engine = make_engine(through(proxy))
    assert use(engine, "SELECT 1") == 1

    def work():
        conn = engine.raw_connection()
        if block:
            with conn:
                send(conn)
        else:
            send(conn)

    def send(conn):
        with gevent.Timeout(0.05 if kind == "timeout" else None):
            conn.cursor().execute("SELECT '" + "x" * 12_000_000 + "'")

    proxy.listening.clear()
    victim = gevent.Greenlet(work)
    victim.start()
    wait_until(lambda: proxy.asked and not victim.dead, "sending")
    gevent.idle()
    with gevent.Timeout(2):
        if kind == "kill":
            victim.kill()
        else:
            with pytest.raises(gevent.Timeout):
                victim.get()
    hub_errors.clear()
    proxy.listening.set()
    with gevent.Timeout(2):
        assert use(engine, "SELECT 7") == 7
    assert core(engine).size == 1


def test_a_timeout_caught_in_the_loan(make_engine):
    """What SQLAlchemy was told of is invalid, and nothing else is."""
    engine = make_engine()
    with engine.connect() as conn:
        with give_up_after(0.02):
            conn.execute(text("SELECT SLEEP(5)"))
        assert conn.invalidated
        conn.rollback()
        assert conn.scalar(text("SELECT 3")) == 3


def test_returned_by_the_collector(make_engine, mariadb_server, table):
    """Its transaction is rolled back, by a greenlet of the pool."""
    engine = make_engine()
    held = [engine.raw_connection()]
    held[0].cursor().execute(f"INSERT INTO {table} VALUES (1, 1)")
    session = held[0].thread_id()
    gevent.get_hub().loop.run_callback(held.clear)
    with engine.connect() as conn:
        assert connection_id(conn) == session
        assert conn.scalar(text(f"SELECT COUNT(*) FROM {table}")) == 0


# Dead connections


def test_a_connection_that_was_killed_while_idle_is_not_lent(
    make_engine, mariadb_server
):
    """Found without a round trip, and replaced; SQLAlchemy's events are told."""
    engine = make_engine()
    told = []
    event.listen(engine, "invalidate", lambda *args: told.append("invalidate"))
    with engine.connect() as conn:
        session = connection_id(conn)
    mariadb_server.ask(f"KILL {session}")
    (record,) = core(engine).idle_connections()
    wait_until(lambda: not record.is_quiet(), "noticed")
    assert use(engine) == 1
    assert told == ["invalidate"]


def test_interrupted_while_parting_with_a_dead_connection(make_engine, mariadb_server):
    """The place is free."""
    engine = make_engine()
    with engine.connect() as conn:
        session = connection_id(conn)
    mariadb_server.ask(f"KILL {session}")
    (record,) = core(engine).idle_connections()
    wait_until(lambda: not record.is_quiet(), "noticed")

    @event.listens_for(engine, "close")
    def close(*args):
        raise gevent.Timeout(1)

    with pytest.raises(gevent.Timeout):
        engine.connect()
    event.remove(engine, "close", close)
    assert use(engine) == 1


def test_pre_ping_and_recycle(make_engine, mariadb_server):
    """Work as they do with QueuePool."""
    engine = make_engine(pool_pre_ping=True, pool_recycle=3600)
    with engine.connect() as conn:
        session = connection_id(conn)
    with engine.connect() as conn:
        assert connection_id(conn) == session
    (record,) = core(engine).idle_connections()
    record.starttime -= 3601
    with engine.connect() as conn:
        assert connection_id(conn) != session


def test_all_are_renewed_after_a_disconnect(make_engine, mariadb_server):
    """The others were opened before it, so SQLAlchemy trusts none of them."""
    engine = make_engine(pool_size=2)
    with engine.connect() as one, engine.connect() as other:
        sessions = [connection_id(one), connection_id(other)]
    with engine.connect() as conn:
        mariadb_server.ask(f"KILL {connection_id(conn)}")
        with pytest.raises(exc.OperationalError) as caught:
            conn.scalar(text("SELECT 1"))
        assert caught.value.connection_invalidated
    with engine.connect() as one, engine.connect() as other:
        assert not {connection_id(one), connection_id(other)} & set(sessions)


# ORM, transactions, dispose


def test_orm_sessions(make_engine, table):
    """Many at a time; each has its connection for its transaction only."""
    engine = make_engine(pool_size=2)
    make_session = sessionmaker(engine)

    def work(number):
        with make_session() as session, session.begin():
            session.add(Number(i=number, v=number))
            session.flush()
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(work, n) for n in range(10)], raise_error=True)
    with Session(engine) as session:
        assert session.query(Number).count() == 10
        session.add(Number(i=99))
        session.rollback()
        assert session.get(Number, 99) is None


def test_two_phase_transactions(make_engine, table):
    """Prepared on one connection, and both ways out."""
    engine = make_engine(pool_size=2)
    for number, finish in ((1, "commit"), (2, "rollback")):
        with engine.connect() as conn:
            transaction = conn.begin_twophase()
            conn.execute(text(f"INSERT INTO {table} VALUES ({number}, 0)"))
            transaction.prepare()
            getattr(transaction, finish)()
    with sessionmaker(engine, twophase=True)() as session:
        session.add(Number(i=3))
        session.commit()
    assert use(engine, f"SELECT GROUP_CONCAT(i) FROM {table}") == "1,3"


def test_an_engine_goes_on_after_dispose(make_engine, mariadb_server):
    """With a new pool; who waited in the old one is served; listeners go along."""
    engine = make_engine()
    connected = []
    event.listen(engine, "connect", lambda *args: connected.append(1))
    held = engine.connect()
    waiter = gevent.spawn(use, engine)
    gevent.idle()
    old = core(engine)
    engine.dispose()
    assert waiter.get(timeout=2) == 1
    held.close()
    assert core(engine) is not old and use(engine) == 1
    assert len(connected) == 3
    old.close(timeout=1)


def in_child(work):
    """What *work* returned in a forked child, as text."""
    reader, writer = socket.socketpair()
    child = gevent.os.fork_gevent()
    if child == 0:  # pragma: no cover
        try:
            writer.sendall(str(work()).encode())
        except BaseException as error:
            writer.sendall(repr(error).encode())
        finally:
            writer.close()
            os.kill(os.getpid(), signal.SIGKILL)
    writer.close()
    with reader, gevent.Timeout(10):
        answer = b"".join(iter(lambda: reader.recv(4096), b""))
    with suppress(ChildProcessError):  # the loop has waited for it already
        get_original("os", "waitpid")(child, 0)
    return answer.decode()


@pytest.mark.parametrize("disposes", [True, False])
def test_a_forked_child_has_connections_of_its_own(make_engine, disposes):
    """With SQLAlchemy's dispose(close=False), and without; the parent's live on."""
    engine = make_engine()
    with engine.connect() as conn:
        mine = connection_id(conn)

    def work():
        if disposes:
            engine.dispose(close=False)
        with engine.connect() as conn:
            return connection_id(conn)

    theirs = in_child(work)
    assert theirs.isdigit() and int(theirs) != mine
    with engine.connect() as conn:
        assert connection_id(conn) == mine


# A record knows its pool and the pool its records: of such a ring the collector may
# finalize the driver's socket first, which complains.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_forgotten_engine_hangs_up(mysql_url, mariadb_server):
    """Its idle connections go with it."""
    before = server_sees(mariadb_server)
    engine = create_engine(mysql_url, poolclass=GreenletPool)
    assert use(engine) == 1
    del engine
    gc.collect()
    wait_until(lambda: server_sees(mariadb_server) <= before, "gone")


def test_a_loan_of_an_engine_can_be_transferred(make_engine):
    """The connection lives on when the greenlet that borrowed it has ended."""
    engine = make_engine()
    heir = gevent.getcurrent()

    def borrow():
        conn = engine.connect()
        engine.pool.transfer(conn, heir)
        return conn

    with gevent.spawn(borrow).get() as conn:
        gevent.idle()
        assert conn.scalar(text("SELECT 1")) == 1


def test_the_error_of_a_lost_server_is_the_drivers(make_engine):
    """Unchanged, in the borrower; nothing is lost."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    engine = make_engine(f"mysql+pymysql://user:pw@127.0.0.1:{port}/x")
    for _ in range(2):
        with pytest.raises(exc.OperationalError) as caught:
            engine.connect()
        assert isinstance(caught.value.orig, pymysql.OperationalError)
    assert core(engine).size == 0


@pytest.mark.parametrize("resets", [False, True], ids=["rollback", "session"])
def test_a_kill_between_two_rows_of_a_stream_reads_no_more(make_engine, resets):
    """The ROLLBACK of SQLAlchemy's connection would first read all that are left."""
    reset = None if resets else "rollback"
    engine = make_engine(pool_reset_on_return=reset)
    if resets:
        reset_server_session(engine)
    reading = Event()
    packets = []

    def use():
        with engine.connect().execution_options(stream_results=True) as conn:
            raw = conn.connection.dbapi_connection
            for _ in conn.execute(text("SELECT seq FROM seq_1_to_1000000")):
                read = raw._read_packet

                def note(read=read):
                    packets.append(1)
                    return read()

                raw._read_packet = note
                reading.set()
                hang()

    victim = gevent.spawn(use)
    reading.wait()
    victim.kill()
    assert not packets
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT 1")) == 1


def test_only_unread_rows_of_pymysql_end_a_connection():
    """A double of a driver answers every question with something true."""
    closed = []
    double = SimpleNamespace(
        _result=SimpleNamespace(unbuffered_active=object()),
        close=lambda: closed.append(True),
    )
    assert not stop_streaming(double)
    assert not closed


def test_a_stream_left_by_an_ordinary_error_keeps_its_connection(make_engine):
    """As with QueuePool: what is left is read."""
    engine = make_engine()
    ids = set()
    for _ in range(2):
        with (
            pytest.raises(ZeroDivisionError),
            engine.connect().execution_options(stream_results=True) as conn,
        ):
            ids.add(conn.connection.dbapi_connection.thread_id())
            for _ in conn.execute(text("SELECT seq FROM seq_1_to_1000")):
                1 // 0
    assert len(ids) == 1
