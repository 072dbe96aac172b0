"""The server takes no more connections: the borrowers wait, try again, or fail."""

from __future__ import annotations

import errno

import gevent
import pymysql
import pytest
from gevent.event import Event
from sqlalchemy import event, exc, text

from geventpool import Backoff, ErrorAction, Outage
from geventpool.errors import PoolExhaustedError
from geventpool.sqlalchemy import outages, reset_server_session
from geventpool.sqlalchemy.full_servers import MOST_PAUSES, FullServer, is_refusal
from geventpool.sqlalchemy.outages import ConnectGate
from geventpool.testing import Clock, wait_until
from tests.sqlalchemy.test_pool import Dialect

FULL = pymysql.err.OperationalError(1040, "Too many connections")
ONE = text("SELECT 1")
#: The server is not tried again before the test is over.
NEVER = Backoff(3600, maximum=3600)


def number(error):
    """The number that the server gave its refusal."""
    assert isinstance(error, pymysql.err.MySQLError)
    return error.args[0]


def root(error):
    """What the first of all errors was."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def url_of(server, **account):
    """Where an engine connects to."""
    options = {**server.client_options, **account}
    return "mysql+pymysql://{user}:{password}@{host}:{port}/{database}".format(
        **options
    )


def connect(server):
    """A connection beside the pool."""
    return pymysql.connect(**server.client_options, ssl_disabled=True)


def end_of_pauses(pool):
    """The opener notices at the end of its pause that nobody waits any more."""
    wait_until(lambda: not pool.stats().opening, "a place is taken")


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_full_server_is_waited_for(make_engine, own_server, is_reset):
    """Its refusal is no error as long as there is time: returned connections serve."""
    taken = [connect(own_server) for _ in range(9)]
    engine = make_engine(url_of(own_server), pool_size=10, pool_timeout=5)
    if is_reset:
        reset_server_session(engine, cancel=False)
    served = []

    def borrow():
        with engine.connect() as conn:
            served.append(conn.execute(ONE).scalar())

    borrowers = [gevent.spawn(borrow) for _ in range(20)]
    gevent.joinall(borrowers, raise_error=True, timeout=5)
    assert served == [1] * 20
    for conn in taken:
        conn.close()
    lent = [engine.connect() for _ in range(5)]
    assert len(lent) == 5
    for each in lent:
        each.close()
    end_of_pauses(engine.pool)


def test_the_refusal_of_a_full_server_is_the_cause(make_engine, own_server):
    """A log that says "timed out" alone would send the reader to the pool's size."""
    taken = [connect(own_server) for _ in range(9)]
    engine = make_engine(url_of(own_server), pool_size=10, pool_timeout=0.1)
    with engine.connect(), pytest.raises(exc.TimeoutError, match="failed") as refused:
        engine.connect()
    cause = refused.value.__cause__
    # The limit of the pool was not reached.
    assert "limit" not in str(refused.value)
    assert "the server takes no more" in str(refused.value)
    assert "Too many connections" in str(refused.value)
    assert isinstance(cause, PoolExhaustedError)
    assert number(cause.__cause__) == 1040
    for conn in taken:
        conn.close()
    end_of_pauses(engine.pool)


def test_the_limit_is_not_named_if_the_server_was_away(make_pool):
    """The dial of another had failed, and no place was taken meanwhile."""
    dials, answer = [], Event()

    def dial():
        dials.append(answer.is_set())
        answer.wait()
        raise ConnectionRefusedError("refused")

    outage = Outage(failures=1, grace=0, wait=True, backoff=NEVER)
    pool = make_pool(dial, min_connections=1, timeout=0.1, outage=outage)
    wait_until(lambda: dials == [False], "the dial for the stock")

    def refuse():
        wait_until(lambda: pool.core.extension.waiting == 1)
        answer.set()

    gevent.spawn(refuse)
    with pytest.raises(exc.TimeoutError, match="got no connection") as refused:
        pool.connect()
    assert "no connection, because none could be made" in str(refused.value)
    assert "the last attempt to connect failed: refused" in str(refused.value)
    assert type(root(refused.value)) is ConnectionRefusedError
    assert dials == [False]


def test_an_exhausted_pool_that_the_creator_uses_is_named_as_it_is(make_pool):
    """Its error is the creator's, and says nothing of the limit of this pool."""
    full = PoolExhaustedError("no token")

    def creator():
        raise full

    pool = make_pool(creator)
    with pytest.raises(PoolExhaustedError) as raised:
        pool.connect()
    assert raised.value is full


def test_a_limit_of_the_account_is_waited_for_too(make_engine, mariadb_server):
    """max_user_connections is the server's, as max_connections is."""
    mariadb_server.ask(
        "CREATE OR REPLACE USER few IDENTIFIED BY 'few' WITH MAX_USER_CONNECTIONS 1"
    )
    url = url_of(mariadb_server, user="few", password="few", database="")
    engine = make_engine(url, pool_size=2, pool_timeout=0.1)
    with engine.connect(), pytest.raises(exc.TimeoutError) as refused:
        engine.connect()
    assert number(root(refused.value)) in (1203, 1226)
    end_of_pauses(engine.pool)


def borrow(pool, order, number):
    """Borrow once, and note when that was."""
    conn = pool.connect()
    order.append(number)
    conn.close()


def test_a_borrower_that_was_refused_keeps_its_place_in_line(make_pool, database):
    """It came before those that it would have to wait for."""
    pool = make_pool(pool_size=2)
    first = pool.connect()
    database.failure = FULL
    order: list[int] = []
    borrowers = [gevent.spawn(borrow, pool, order, 1)]
    wait_until(lambda: pool.core.extension.waiting == 1)
    borrowers += [gevent.spawn(borrow, pool, order, number) for number in (2, 3)]
    wait_until(lambda: pool.core.extension.waiting == 3)
    first.close()
    gevent.joinall(borrowers, raise_error=True)
    assert order == [1, 2, 3]
    database.failure = None


def test_borrowers_that_were_refused_together_keep_their_order(make_pool, database):
    """The last one to be refused is not the first to be served."""
    pool = make_pool(pool_size=4)
    first = pool.connect()
    database.failure = FULL
    order: list[int] = []
    borrowers = [gevent.spawn(borrow, pool, order, number) for number in range(3)]
    wait_until(lambda: pool.core.extension.waiting == 3)
    first.close()
    gevent.joinall(borrowers, raise_error=True)
    assert order == [0, 1, 2]
    database.failure = None


def test_a_full_server_is_tried_until_it_has_room(make_pool, database):
    """With nobody's connection to come back."""
    pool = make_pool(pool_size=3, timeout=None)
    database.failure = FULL
    borrowers = [gevent.spawn(pool.connect) for _ in range(3)]
    wait_until(lambda: pool.core.extension.waiting == 3)
    database.failure = None
    gevent.joinall(borrowers, raise_error=True)
    for each in borrowers:
        each.get().close()
    assert pool.core.gate.full.refusal is None


def test_a_killed_borrower_leaves_no_place_behind(make_pool, database):
    """Neither in the line nor in the pool."""
    pool = make_pool(pool_size=2)
    database.failure = FULL
    borrower = gevent.spawn(pool.connect)
    wait_until(lambda: pool.core.extension.waiting == 1)
    borrower.kill()
    assert pool.core.extension.waiting == 0
    # Before the next try the pool itself keeps the place, and no borrower.
    assert pool.stats().opening == 1 and pool.checkedout() == 0
    end_of_pauses(pool)
    database.failure = None
    pool.connect().close()


def test_a_connection_that_pre_ping_renews_waits_at_its_place(
    make_pool, database, monkeypatch
):
    """SQLAlchemy connects it, and has no way to take another one."""
    monkeypatch.setattr(outages, "PAUSES", Backoff(0, maximum=0))
    pool = make_pool(pre_ping=True, dialect=Dialect(answer=False))
    pool.connect().close()
    database.failure = FULL
    borrower = gevent.spawn(pool.connect)
    wait_until(lambda: pool.core.gate.full.refusal is not None)
    assert pool.core.extension.waiting == 0
    database.failure = None
    borrower.get().close()


@pytest.mark.parametrize("is_soft", [False, True])
def test_a_record_without_a_usable_connection_gives_way(make_pool, database, is_soft):
    """Returned connections serve its borrower as well."""
    pool = make_pool(pool_size=2, use_lifo=True)
    first, second = pool.connect(), pool.connect()
    second.invalidate(soft=is_soft)
    second.close()
    database.failure = FULL
    borrower = gevent.spawn(pool.connect)
    wait_until(lambda: pool.core.extension.waiting == 1)
    first.close()
    borrower.get().close()
    database.failure = None


def test_a_connection_that_is_too_old_gives_way(make_engine, own_server):
    """With pool_recycle each loan needs a place at the server that had the last one."""
    taken = [connect(own_server) for _ in range(9)]
    engine = make_engine(
        url_of(own_server), pool_size=4, pool_timeout=20, pool_recycle=0
    )

    def borrow():
        with engine.connect() as conn:
            return conn.execute(ONE).scalar()

    borrowers = [gevent.spawn(borrow) for _ in range(8)]
    gevent.joinall(borrowers, raise_error=True)
    assert [borrower.value for borrower in borrowers] == [1] * 8
    for conn in taken:
        conn.close()
    end_of_pauses(engine.pool)


def test_an_error_of_connecting_again_is_told_as_by_sqlalchemy(make_pool, database):
    """The record comes back to the pool, with its event."""
    pool = make_pool(pool_size=1)
    conn = pool.connect()
    conn.invalidate()
    conn.close()
    returned = []
    event.listen(pool, "checkin", lambda conn, record: returned.append(conn))
    database.failure = ValueError("no password")
    with pytest.raises(ValueError, match="no password"):
        pool.connect()
    assert returned == [None]
    database.failure = None
    pool.connect().close()


def gate_of(clock):
    """A gate whose driver says that the server is full."""
    return ConnectGate(
        Outage(), clock, lambda error: ErrorAction.BACK_OFF, lambda *told: None
    )


def test_nobody_waits_at_a_full_server_beyond_its_limit():
    """The caller gets the driver's error."""
    clock = Clock()

    def dial():
        clock.advance(2)
        raise FULL

    for limit in (0, 1):
        with pytest.raises(pymysql.err.OperationalError):
            gate_of(clock).connect(dial, limit)


def test_each_refusal_in_a_row_means_one_more_pause():
    """The pauses of the opener grow."""
    server = FullServer()
    assert server.hold_back() is None
    for number in range(1, MOST_PAUSES + 3):
        server.refused(FULL, number, number)
        pauses = 0
        while server.hold_back() is not None:
            pauses += 1
        assert pauses == min(number, MOST_PAUSES)
    assert server.hold_back() is FULL, "the next one waits for the outcome"
    server.had_room()
    assert server.hold_back() is None


def test_refusals_of_the_same_moment_count_as_one():
    """A crowd that was refused together must not wait for seconds."""
    server = FullServer()
    for _ in range(5):
        server.refused(FULL, 1, 2)
    assert server.hold_back() is FULL and server.hold_back() is None


@pytest.mark.parametrize(
    ("error", "dialect", "expected"),
    [
        (FULL, "mysql", True),
        (pymysql.err.OperationalError(1203, "more than"), "mariadb", True),
        (pymysql.err.OperationalError(1226, "exceeded"), "mysql", True),
        (pymysql.err.OperationalError(1226, "exceeded"), "mssql", False),
        (pymysql.err.OperationalError(1045, "denied"), "mysql", False),
        (RuntimeError("FATAL: sorry, too many clients already"), "postgresql", True),
        (OSError(errno.EMFILE, "no descriptor"), "mysql", True),
        (RuntimeError("no socket: Too many open files"), "postgresql", True),
        (RuntimeError(), None, False),
    ],
)
def test_a_refusal_is_known_by_code_or_text(error, dialect, expected):
    """The codes are those of MySQL; elsewhere they mean something else."""
    assert is_refusal(error, dialect) is expected


def test_a_process_without_a_descriptor_counts_as_full():
    """Whatever error the driver makes of it."""
    error = pymysql.err.OperationalError(2003, "can't connect")
    vars(error)["original_exception"] = OSError(errno.ENFILE, "no descriptor")
    assert is_refusal(error, "mysql")


def test_the_hub_may_run_while_a_full_server_is_tried(make_pool, database):
    """A borrower without a limit does not keep the others from running."""
    pool = make_pool(pool_size=1, timeout=None)
    database.failure, ran = FULL, Event()
    borrower = gevent.spawn(pool.connect)
    gevent.spawn(ran.set)
    ran.wait()
    database.failure = None
    borrower.get().close()
