"""Resets that are sent ahead: nobody waits for them, and nobody is misled by them."""

from __future__ import annotations

from contextlib import contextmanager

import gevent
import pytest
from gevent.event import Event
from pymysql import err
from pymysql.constants import CLIENT

from geventpool import Timeouts, sockets
from geventpool.mysql import ConnectionPool, ahead
from geventpool.mysql.protocol import info_of
from geventpool.mysql.statements import Kind
from geventpool.testing import interrupt_everywhere, no_switch, wait_until
from tests import parts
from tests.mysql.conftest import rows, value
from tests.mysql.proxy import RESET
from tests.mysql.test_reset import said, use

#: Leaves something, but no locks.
SOIL = "SET @used=1"


@pytest.fixture()
def worn(through, proxy):
    """Makes a pool that has cleaned its one connection, and what the proxy has seen."""

    def make(**options):
        pool = through(**{"max_connections": 1, "autocommit": True, **options})
        use(pool)
        said(proxy)
        return pool

    return make


def soil(pool, statement=SOIL):
    """A loan that leaves something, taken and given back by hand."""
    conn = pool.acquire()
    rows(conn, statement)
    with no_switch():
        pool.release(conn)
    return conn


def test_a_returned_connection_is_idle_at_once(worn, proxy):
    """Its reset is under way, and its next borrower need not wait for that."""
    pool = worn()
    conn = soil(pool)
    assert conn.pending and pool.stats().idle == 1 and pool.stats().resetting == 0
    with no_switch():
        assert pool.acquire() is conn
    assert value(conn, "SELECT @used") is None
    assert any(message.startswith(RESET) for message in said(proxy))


def test_a_loan_that_has_left_nothing_is_not_reset(worn, proxy, table):
    """Its text, its answers and the status of the session say so."""
    pool = worn()
    for statement in (
        "SELECT 1",
        f"INSERT INTO {table} VALUES (1, 'x')".replace("'x'", "2"),
        f"UPDATE {table} SET v = 5",
        f"SELECT v FROM {table} WHERE i = 1",
    ):
        with pool.connection() as conn:
            rows(conn, statement)
        assert len(said(proxy)) == 1


def test_outside_of_autocommit_a_loan_ends_with_its_commit(worn, proxy, table):
    """The status that ends a result tells whether there is something to commit."""
    pool = worn(autocommit=False)
    with pool.connection() as conn:
        rows(conn, f"SELECT v FROM {table}")
    assert [message[5:] for message in said(proxy)] == [
        f"SELECT v FROM {table}".encode(),
        b"COMMIT",
    ]
    with pool.connection() as conn:
        rows(conn, "SELECT 1")
    assert len(said(proxy)) == 1


def test_autocommit_that_was_changed_back_leaves_nothing(worn, proxy):
    """As Django does for each transaction."""
    pool = worn()
    with pool.connection() as conn:
        conn.autocommit(False)
        conn.autocommit(True)
        conn.query("SET AUTOCOMMIT = 1")
    assert len(said(proxy)) == 3
    with pool.connection() as conn:
        conn.autocommit(False)
    assert use(pool) is conn
    with pool.connection() as conn:
        assert conn.get_autocommit() and value(conn, "SELECT @@autocommit") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda conn: [rows(conn, "SELECT 1") for _ in range(20)],
        lambda conn: rows(conn, f"SELECT '{'x' * 20000}'"),
        lambda conn: conn.select_db(conn.db.decode()),
        lambda conn: rows(conn, "SELECT 1") and setattr(conn, "charset", "latin1"),  # type: ignore[func-returns-value]
    ],
    ids=["many statements", "a long one", "another command", "an attribute"],
)
def test_what_is_not_looked_at_is_reset(worn, proxy, change):
    """To look at it would cost more."""
    pool = worn()
    with pool.connection() as conn:
        change(conn)
    use(pool)
    assert sum(RESET in message for message in said(proxy)) == 2
    assert conn.charset == "utf8mb4"


def test_text_of_another_charset_is_not_trusted(make_pool):
    """In some, a character may end like a backslash or a quote."""
    pool = make_pool(max_connections=1, charset="gbk", autocommit=True)
    use(pool)
    for word, resets in (("x", False), ("\u4e00", True)):
        with pool.connection() as conn:
            rows(conn, f"SELECT '{word}'")
        assert bool(conn.pending) is resets
        use(pool)


def test_several_statements_in_one_are_not_trusted(make_pool):
    """Only the first of them is known by how it begins."""
    pool = make_pool(
        max_connections=1, autocommit=True, client_flag=CLIENT.MULTI_STATEMENTS
    )
    use(pool)
    with pool.connection() as conn:
        rows(conn, "SELECT 1")
    assert conn.pending


# Whether the server reports changes


def test_a_server_that_does_not_report_changes_gets_its_resets(through, proxy):
    """It does not know the variable, or a proxy takes no part in it."""
    proxy.question = lambda data: data.replace(
        b"track_state_change", b"track_state_chanXX"
    )
    pool = through(max_connections=1, autocommit=True)
    use(pool)
    with pool.connection() as conn:
        assert rows(conn, "SELECT @@character_set_client") == [("utf8mb4",)]
        said(proxy)
    assert conn.can_track and not conn.tracks
    use(pool)
    assert sum(RESET in message for message in said(proxy)) == 2


def test_another_refusal_of_the_settings_is_no_answer_to_that(through, proxy):
    """It is the error of the opening."""
    proxy.question = lambda data: data.replace(b"NAMES utf8mb4", b"NAMES utf8mbX")
    with pytest.raises(err.OperationalError, match="utf8mbX"):
        through().acquire()


def test_a_server_that_cannot_report_is_not_asked_to(through, proxy):
    """Its greeting says so; then nothing is agreed on."""

    def without(data):
        # The upper half of the capabilities stands in the greeting behind the status.
        if data[4:5] == b"\x0a":
            at = data.index(b"\0", 5) + 1 + 4 + 8 + 1 + 2 + 1 + 2
            data = data[:at] + bytes([data[at] & 0x7F]) + data[at + 1 :]
        return data

    proxy.answer = without
    pool = through(max_connections=1, autocommit=True, ssl_disabled=True)
    conn = use(pool)
    assert not conn.can_track
    with pool.connection():
        rows(conn, "SELECT 1")
    assert conn.pending and not conn.tracks


def test_the_text_of_an_answer_is_free_of_reports(make_pool, table):
    """PyMySQL does not know that they may follow it."""
    with make_pool().connection() as conn:
        cursor = conn.cursor()
        cursor.execute(f"INSERT INTO {table} VALUES (1, 0), (2, 0)")
        assert conn._result.message.startswith(b"Records: 2")
        cursor.execute("SET @@time_zone = '+05:00'")
        assert conn._result.message == b""


def test_a_long_text_of_an_answer_is_whole():
    """Its length stands in two bytes then."""
    text = b"x" * 300
    assert info_of(b"\xfc\x2c\x01" + text + b"reports") == text


# Replies that are late, wrong or missing


class Gate:
    """Holds back answers of a server until it is opened."""

    def __init__(self, proxy):
        self.open = Event()
        self.open.set()
        proxy.answer = self._pass

    def _pass(self, data):
        self.open.wait()
        return data


@pytest.fixture()
def gate(proxy):
    """Where the proxy can be made to wait."""
    gate = Gate(proxy)
    yield gate
    gate.open.set()


def test_the_first_statement_waits_for_the_replies(worn, gate):
    """It must not run in a session whose reset has failed."""
    pool = worn()
    gate.open.clear()
    conn = soil_at(pool, gate)
    borrowed = pool.acquire()
    asking = gevent.spawn(value, borrowed, "SELECT @used")
    gevent.idle()
    assert borrowed is conn and not asking.ready()
    gate.open.set()
    assert asking.get() is None


def soil_at(pool, gate):
    """A loan that leaves something, the answers of whose reset are held back."""
    gate.open.set()
    conn = pool.acquire()
    rows(conn, SOIL)
    gate.open.clear()
    pool.release(conn)
    return conn


def test_late_replies_are_waited_for_by_the_pool(worn, gate, monkeypatch):
    """The borrower gets another connection meanwhile."""
    pool = worn(max_connections=2)
    conn = soil_at(pool, gate)
    monkeypatch.setattr(ahead, "LATE", -1)
    borrower = gevent.spawn(pool.acquire, reclaim=False)
    wait_until(lambda: pool.stats().checking == 1, "checked")
    assert not borrower.ready()
    gate.open.set()
    borrowed = borrower.get()
    assert conn.open and value(borrowed, "SELECT @used") is None
    pool.release(borrowed, anyone=True)


@pytest.mark.parametrize("soon", [0, 1000])
def test_replies_that_cannot_have_come_are_not_looked_for(worn, monkeypatch, soon):
    """Right after the reset was sent nothing is read before there is something."""
    pool = worn()
    rows(conn := pool.acquire(), SOIL)
    monkeypatch.setattr(ahead, "SOON", soon)
    waits: list[object] = []
    monkeypatch.setattr(sockets, "await_reply", waits.append)
    pool.release(conn)
    wait_until(lambda: conn.ask(0), "replied")
    monkeypatch.setattr(conn, "ask", lambda timeout: [])
    assert pool.acquire() is conn
    assert bool(conn.pending) is bool(soon)
    assert value(conn, "SELECT @used") is None
    assert len(waits) == (2 if soon else 1)


@pytest.mark.parametrize("soon", [0, 1000])
def test_replies_that_have_come_at_once_are_taken(worn, monkeypatch, soon):
    """However soon after the reset the next loan begins."""
    pool = worn()
    monkeypatch.setattr(ahead, "SOON", soon)
    conn = soil(pool)
    wait_until(lambda: conn.ask(0), "replied")
    assert pool.acquire() is conn and not conn.pending
    assert value(conn, "SELECT @used") is None


def test_a_lost_connection_is_not_lent_right_after_its_reset(
    worn, mariadb_server, monkeypatch
):
    """It was lost in the loan before, and the reset could still be sent."""
    pool = worn()
    monkeypatch.setattr(ahead, "SOON", 1000)
    rows(conn := pool.acquire(), SOIL)
    mariadb_server.hang_up()
    wait_until(lambda: conn.ask(0), "lost")
    pool.release(conn)
    assert conn.pending
    assert pool.acquire() is not conn


def test_a_spoiled_connection_is_not_lent_however_soon(worn, monkeypatch):
    """The wrong reply has come at once, and nothing comes after it."""
    pool = worn()
    monkeypatch.setattr(ahead, "SOON", 1000)
    conn = soil(pool)
    monkeypatch.setattr(conn, "ask", lambda timeout: [])
    conn.pending = ahead.SPOILED
    assert pool.acquire() is not conn


def test_a_look_leaves_a_connection_that_waits_for_its_replies(worn, gate, monkeypatch):
    """It is neither dead nor out of step."""
    pool = worn()
    conn = soil_at(pool, gate)
    monkeypatch.setattr(ahead, "LATE", -1)
    pool.drop_expired()
    assert pool.idle_connections() == [conn]


def test_an_unused_loan_of_late_replies_is_seen_to_by_the_pool(worn, gate, monkeypatch):
    """The next borrower does not wait for them in its own greenlet."""
    pool = worn()
    conn = soil_at(pool, gate)
    assert pool.acquire() is conn
    monkeypatch.setattr(ahead, "LATE", -1)
    waiter = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    pool.release(conn)
    assert pool.stats().resetting == 1
    gate.open.set()
    assert waiter.get() is conn
    pool.release(conn, anyone=True)


def test_replies_that_never_come_cost_the_connection(worn, gate, monkeypatch):
    """After the time that a ping may take."""
    pool = worn(timeouts=Timeouts(ping=0.02))
    conn = soil_at(pool, gate)
    monkeypatch.setattr(ahead, "LATE", -1)
    borrower = gevent.spawn(pool.acquire, reclaim=False)
    wait_until(lambda: not conn.open, "closed")
    gate.open.set()
    assert borrower.get() is not conn
    pool.release(borrower.value, anyone=True)


def fail_once(proxy):
    """Have the next reset answered by an error."""

    def question(data):
        if RESET in data:
            proxy.question = lambda data: data
            data = data.replace(b"NAMES utf8mb4", b"NAMES utf8mbX")
        return data

    proxy.question = question


def test_a_reset_that_has_failed_is_sent_again(worn, proxy):
    """A late KILL QUERY was meant for the borrower before."""
    pool = worn()
    fail_once(proxy)
    conn = soil(pool)
    assert pool.acquire() is conn
    assert value(conn, "SELECT @used") is None


def test_a_reset_that_fails_again_costs_the_connection(worn, proxy):
    """And no statement is sent."""
    pool = worn()
    proxy.question = lambda data: data.replace(b"NAMES utf8mb4", b"NAMES utf8mbX")
    conn = soil(pool)
    assert pool.acquire() is conn
    with pytest.raises(err.OperationalError, match="could not be reset.*utf8mbX"):
        rows(conn, "SELECT 'never'")
    assert not conn.open
    assert not any(b"never" in message for message in said(proxy))
    pool.drop(conn)


def test_a_failure_that_has_arrived_costs_the_connection_only(worn, proxy):
    """The next borrower gets another one."""
    pool = worn()
    fail_once(proxy)
    conn = soil(pool)
    wait_until(lambda: conn.ask(0), "answered")
    wait_until(lambda: not conn.is_quiet(), "an error")
    assert pool.acquire() is not conn


def test_a_failure_that_is_seen_while_it_is_lent_costs_the_connection(worn, proxy):
    """It is not asked again what was wrong."""
    pool = worn()
    fail_once(proxy)
    conn = soil(pool)
    assert pool.acquire() is conn
    wait_until(lambda: conn.ask(0), "answered")
    wait_until(lambda: not conn.is_quiet(), "an error")
    assert not conn.in_step
    with pytest.raises(err.OperationalError, match="could not be reset"):
        rows(conn, "SELECT 1")
    pool.drop(conn)


def test_several_commands_are_sent_after_the_replies(worn):
    """As a statement is."""
    pool = worn()
    conn = soil(pool)
    assert pool.acquire() is conn and conn.pending
    assert conn.pipeline([(3, b"SET @used=5"), (14, b"")]) == [None, None]
    assert value(conn, "SELECT @used") == 5
    pool.release(conn)


def test_a_connection_lost_in_its_reset_is_replaced(worn, proxy):
    """Its end is seen behind the replies, or in their place."""
    pool = worn()
    proxy.question = lambda data: None if RESET in data else data
    conn = soil(pool)
    wait_until(lambda: conn.ask(0), "hung up")
    assert pool.acquire() is not conn


def test_a_connection_lost_while_replies_are_read_is_an_error(worn, proxy):
    """That of any lost connection."""
    pool = worn()
    proxy.question = lambda data: None if RESET in data else data
    conn = soil(pool)
    assert pool.acquire() is conn
    with pytest.raises(err.OperationalError) as failure:
        rows(conn, "SELECT 1")
    assert failure.value.args[0] == 2013
    pool.drop(conn)


def test_replies_may_come_in_pieces(worn, proxy):
    """They are put together."""
    pool = worn()
    pieces = []

    def answer(data):
        # The server may send in several pieces itself. The rest does not come.
        pieces.append(data)
        return data[:6] if len(pieces) == 1 else b""

    conn = pool.acquire()
    rows(conn, SOIL)
    proxy.answer = answer
    pool.release(conn)
    wait_until(lambda: conn.ask(0), "the first piece")
    assert conn.is_quiet() and conn.pending
    pool.drop(conn)


class Pieces:
    """A socket that receives these bytes first, one piece at a time."""

    #: Nothing need be awaited.
    _read_event = None

    def __init__(self, sock, *pieces):
        self._within = sock
        self._pieces = list(pieces)

    def recv(self, size):
        return self._pieces.pop(0) if self._pieces else self._within.recv(size)

    def __getattr__(self, name):
        return getattr(self._within, name)


@contextmanager
def receiving(conn, *pieces):
    """Let a connection receive these bytes first, one piece at a time."""
    sock = conn._sock
    conn._sock = Pieces(sock, *pieces)
    yield
    conn._sock = sock


def usual_of(conn):
    """The usual replies to a reset, as the connection knows them."""
    return conn._usual


@pytest.fixture()
def reset_again(worn):
    """A borrowed connection, and what resets it and returns the replies."""
    pool = worn()
    soil(pool)
    conn = pool.acquire()
    assert value(conn, "SELECT @used") is None

    def reset():
        rows(conn, SOIL)
        assert conn.send_ahead(*conn.prepared[False])
        replies = b""
        while len(replies) < len(usual_of(conn)[1]):
            replies += parts.socket_of(conn).recv(4096)
        return replies

    yield conn, reset
    pool.drop(conn)


def test_the_usual_replies_may_come_in_any_pieces(reset_again):
    """The statement gets its own reply, wherever those before it are cut."""
    conn, reset = reset_again
    for cut in range(1, len(usual_of(conn)[1])):
        replies = reset()
        assert replies == usual_of(conn)[1]
        with receiving(conn, replies[:cut], replies[cut:]):
            assert value(conn, "SELECT @used") is None
        # A plain loan is trusted again.
        assert conn.tracks and not conn.pending
    assert cut > 20


def test_the_usual_replies_end_a_transaction(reset_again):
    """The status is that of the last reply."""
    conn, reset = reset_again
    rows(conn, "BEGIN")
    with receiving(conn, reset()):
        conn.settle()
    assert not conn.may_hold_transaction


def test_unusual_replies_are_read_one_by_one(reset_again):
    """They are equal to the usual ones up to some byte only."""
    conn, reset = reset_again
    for cut in range(1, 30):
        replies = reset()
        # More warnings than usual.
        replies = replies[:9] + bytes([cut]) + replies[10:]
        with receiving(conn, replies[:cut], replies[cut:]):
            assert value(conn, "SELECT @used") is None
        assert usual_of(conn)[1] == replies


def test_after_a_reset_that_was_sent_again_the_usual_replies_are_whole(worn, proxy):
    """What came before the error does not count among them."""
    pool = worn(collation="utf8mb4_bin")
    fail_once(proxy)
    soil(pool)
    conn = pool.acquire()
    assert value(conn, "SELECT @used") is None
    usual = usual_of(conn)
    pool.release(conn)
    soil(pool)
    conn = pool.acquire()
    assert value(conn, "SELECT @used") is None
    assert usual_of(conn) is usual
    pool.release(conn)


def test_stray_bytes_behind_the_replies_cost_the_connection(worn, proxy):
    """Nobody has asked for them."""
    pool = worn()
    conn = pool.acquire()
    rows(conn, SOIL)
    proxy.answer = lambda data: data + b"\x01\x00\x00\x01\x00"
    pool.release(conn)
    wait_until(lambda: conn.ask(0), "answered")
    wait_until(lambda: not conn.is_quiet(), "stray bytes")
    proxy.answer = lambda data: data
    assert pool.acquire() is not conn


@pytest.mark.parametrize("early", [True, False])
def test_a_reply_that_is_no_ok_costs_the_connection(worn, proxy, early):
    """Nobody knows what it answers."""
    pool = worn()
    conn = pool.acquire()
    rows(conn, SOIL)
    proxy.answer = lambda data: b"\x01\x00\x00\x01\x00"
    pool.release(conn)
    assert pool.acquire() is conn
    if early:
        wait_until(lambda: conn.ask(0), "answered")
        assert not conn.is_quiet()
    with pytest.raises(err.OperationalError, match="could not be reset"):
        rows(conn, "SELECT 1")
    assert not conn.open
    pool.drop(conn)


def test_what_cannot_be_sent_at_once_is_left_to_the_pool(worn, monkeypatch):
    """A greenlet of the pool waits until it can."""
    pool = worn()
    conn = pool.acquire()
    rows(conn, SOIL)

    def full(act, data):
        raise BlockingIOError

    with monkeypatch.context() as patch:
        patch.setattr(conn, "_at_once", full)
        pool.release(conn)
        assert pool.stats().resetting == 1
    assert use(pool) is conn


def test_half_a_reset_costs_the_connection(worn, monkeypatch):
    """The other half could not be sent without waiting."""
    pool = worn()
    conn = pool.acquire()
    rows(conn, SOIL)
    monkeypatch.setattr(conn, "_at_once", lambda act, data: 5)
    pool.release(conn)
    wait_until(lambda: pool.size == 0, "closed")


@pytest.mark.parametrize("later", [-1, 0, 1])
def test_a_borrower_may_be_interrupted_while_replies_come(proxy, later):
    """No answer of a reset is taken for that of a statement."""
    number = 0
    # Each answer of a proxy in this very process makes the victim wait.
    where = {**proxy.server.client_options, "host": proxy.host, "port": proxy.port}

    def scenario():
        pool = ConnectionPool(**where, max_connections=1, autocommit=True)

        def work():
            nonlocal number
            for _ in range(4):
                number += 1
                with pool.connection() as conn:
                    assert rows(conn, f"SELECT {number}, @used") == [(number, None)]
                    rows(conn, SOIL)

        return work, [pool]

    assert interrupt_everywhere(scenario, later=later) > 8


# The status of the session


def test_autocommit_of_the_last_borrower_is_not_taken_for_the_next_ones(worn, table):
    """Without a statement the next one would not be in a transaction."""
    pool = worn()
    soil(pool, "SET autocommit=0")
    conn = pool.acquire()
    assert conn.pending
    conn.autocommit(False)
    rows(conn, f"INSERT INTO {table} VALUES (1, 1)")
    conn.rollback()
    assert rows(conn, f"SELECT * FROM {table}") == []
    pool.release(conn)


@pytest.mark.parametrize("mine", ["", "NO_BACKSLASH_ESCAPES"])
def test_values_are_escaped_as_the_session_demands_after_its_reset(worn, mine):
    """Otherwise a value of the first statement could end its literal."""
    pool = worn(sql_mode=mine)
    other = "ANSI" if mine else "NO_BACKSLASH_ESCAPES"
    soil(pool, f"SET sql_mode='{other}'")
    conn = pool.acquire()
    assert conn.pending
    assert value(conn, "SELECT CHAR_LENGTH(%s)", "\\' OR 1 -- ") == 11
    pool.release(conn)


def test_the_status_is_awaited_by_the_borrower_alone(worn, proxy):
    """Another greenlet would read the same replies."""
    pool = worn()
    soil(pool)
    conn = pool.acquire()
    with no_switch():
        pool.release(conn)
        assert conn.pending and conn.escape("x") == "'x'"
        assert pool.acquire() is conn
    borrower = gevent.spawn(conn.get_autocommit)
    gevent.sleep(0)
    with pytest.raises(err.MySQLError, match="in use by another greenlet"):
        conn.escape("x")
    assert borrower.get() is True
    pool.release(conn)


def test_an_interruption_while_the_status_is_awaited_costs_the_connection(worn):
    """The rest of the replies would answer the next statement."""
    pool = worn()
    soil(pool)
    conn = pool.acquire()
    borrower = gevent.spawn(conn.escape, "x")
    gevent.sleep(0)
    borrower.kill()
    pool.release(conn)
    with pool.connection() as other:
        assert other is not conn and value(other, "SELECT @used") is None


# Locks


@pytest.mark.parametrize(
    ("take", "look"),
    [
        ("SELECT GET_LOCK('ahead', 0)", "SELECT GET_LOCK('ahead', 0)"),
        ("UPDATE {table} SET v = 1", "SELECT 1 FROM {table} FOR UPDATE NOWAIT"),
        ("LOCK TABLES {table} WRITE", "SELECT 1 FROM {table} FOR UPDATE NOWAIT"),
    ],
    ids=["by name", "of rows", "of a table"],
)
@pytest.mark.parametrize("block", [True, False])
def test_locks_are_released_before_the_next_loan_begins(
    make_pool, mariadb_server, table, take, look, block
):
    """Also if it gets another connection: a borrower relies on the end of a loan."""
    mariadb_server.ask(f"INSERT INTO {table} VALUES (1, 0)")
    pool = make_pool(max_connections=2)
    other = pool.acquire()
    for _ in range(10):
        conn = pool.acquire()
        rows(conn, take.format(table=table))
        pool.release(other)
        pool.release(conn)
        other = pool.acquire()
        assert rows(other, look.format(table=table)) == [(1,)]
        rows(other, "SELECT RELEASE_LOCK('ahead')")
        other.rollback()
        if block:
            with pool.connection() as third:
                assert value(third, "SELECT 1") == 1
    pool.release(other)


@pytest.fixture()
def grab(mariadb_server):
    """The name of a function that takes a lock."""
    name = f"{mariadb_server.database}.grab"
    mariadb_server.ask(f"CREATE FUNCTION {name}() RETURNS INT RETURN GET_LOCK('x', 0)")
    yield name
    mariadb_server.ask(f"DROP FUNCTION {name}")


@pytest.mark.parametrize(
    ("statement", "waits"),
    [
        ("SET @used = 1", False),
        ("SET @used = {grab}()", True),
        ("SET STATEMENT max_statement_time = 9 FOR SELECT * FROM {table}", True),
        ("SELECT {grab}(), '" + "x" * 20000 + "'", True),
    ],
    ids=["a value", "a function", "a query", "a long one"],
)
def test_locks_that_a_text_does_not_name_are_waited_for(
    worn, table, grab, statement, waits
):
    """A function may take them, or a view."""
    pool = worn()
    conn = soil(pool, statement.format(grab=grab, table=table))
    assert conn.pending
    assert (conn in parts.connector(pool).unsettled) is waits


def test_the_locks_of_a_view_are_waited_for(worn, grab, mariadb_server):
    """The pool knows that there is one."""
    view = f"{mariadb_server.database}.grabbing"
    mariadb_server.ask(f"CREATE VIEW {view} AS SELECT {grab}() AS taken")
    try:
        pool = worn()
        conn = soil(pool, f"SELECT * FROM {view}")
        assert conn in parts.connector(pool).unsettled
    finally:
        mariadb_server.hang_up()
        mariadb_server.ask(f"DROP VIEW {view}")


def held_back(pool, gate):
    """A loan that held a lock, the answers of whose reset are held back."""
    conn = pool.acquire()
    rows(conn, "SELECT GET_LOCK('ahead', 0)")
    gate.open.clear()
    pool.release(conn)


@pytest.mark.parametrize("way", ["block", "acquire", "checked"])
def test_the_wait_for_locks_may_be_interrupted(worn, gate, way):
    """The waiter has a connection already, which is not lost."""
    check = {"check": bool} if way == "checked" else {}
    pool = worn(max_connections=2, **check)
    other = pool.acquire()
    held_back(pool, gate)
    pool.release(other)

    def borrow():
        if way == "acquire":
            pool.acquire()
        else:
            with pool.connection():
                pass

    borrower = gevent.spawn(borrow)
    gevent.idle()
    borrower.kill()
    gate.open.set()
    assert pool.stats().in_use == 0


def test_a_long_reset_does_not_hold_up_the_loans_of_others(worn, gate):
    """To undo a big transaction takes its time."""
    pool = worn(max_connections=2)
    other = pool.acquire()
    held_back(pool, gate)
    pool.release(other)
    assert pool.acquire() is other
    gate.open.set()


# What hidden code may do


@pytest.fixture()
def kinds(make_pool):
    """What a pool trusts, after it has looked at its server."""

    def look(**options):
        pool = make_pool(max_connections=1, **options)
        use(pool)
        return parts.kinds_of_resets(pool)

    return look


def test_without_views_and_triggers_everything_plain_is_trusted(kinds):
    """If the account can see that there is nothing of the kind."""
    assert kinds() == frozenset(Kind)


def test_an_account_that_sees_no_triggers_is_trusted_when_it_reads(
    kinds, mariadb_server
):
    """Its writes may meet some that it cannot see."""
    name = "nobody_special"
    mariadb_server.ask(f"CREATE USER {name} IDENTIFIED BY 'x'")
    mariadb_server.ask(f"GRANT SELECT ON {mariadb_server.database}.* TO {name}")
    try:
        assert kinds(user=name, password="x") == {Kind.CONTROL, Kind.READ}
    finally:
        mariadb_server.ask(f"DROP USER {name}")


@pytest.mark.parametrize(
    "rights",
    [
        ["SELECT, INSERT, UPDATE, DELETE ON *.*"],
        ["ALL ON {database}.*", "SELECT, INSERT ON elsewhere.*"],
    ],
    ids=["and those of others", "in one of two databases"],
)
def test_rights_are_those_of_the_account_in_each_database(
    kinds, mariadb_server, rights
):
    """It is told of the rights of others if it reads the server's own tables."""
    database, name = mariadb_server.database, "half_blind"
    mariadb_server.ask("CREATE DATABASE elsewhere")
    mariadb_server.ask(f"CREATE USER {name} IDENTIFIED BY 'x'")
    for right in rights:
        mariadb_server.ask(f"GRANT {right.format(database=database)} TO {name}")
    try:
        assert kinds(user=name, password="x") == {Kind.CONTROL, Kind.READ}
        mariadb_server.ask(f"GRANT TRIGGER ON *.* TO {name}")
        assert kinds(user=name, password="x") == frozenset(Kind)
    finally:
        mariadb_server.ask(f"DROP USER {name}")
        mariadb_server.ask("DROP DATABASE elsewhere")


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        ("(1 + 1)", frozenset(Kind)),
        ("(NEXT VALUE FOR {database}.serial)", {Kind.CONTROL, Kind.READ}),
    ],
)
def test_defaults_of_columns_are_looked_through(
    kinds, mariadb_server, default, expected
):
    """An INSERT takes the value of a sequence that its text does not name."""
    database = mariadb_server.database
    mariadb_server.ask(f"CREATE SEQUENCE {database}.serial")
    column = f"i INT DEFAULT {default.format(database=database)}"
    mariadb_server.ask(f"CREATE TABLE {database}.filled ({column})")
    try:
        assert kinds() == expected
    finally:
        mariadb_server.ask(f"DROP TABLE {database}.filled")
        mariadb_server.ask(f"DROP SEQUENCE {database}.serial")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("SELECT 1 AS one", frozenset(Kind)),
        ("SELECT GET_LOCK('x', 0) AS one", frozenset({Kind.CONTROL})),
    ],
)
def test_views_are_looked_through(kinds, mariadb_server, body, expected):
    """One that only computes changes nothing."""
    name = f"{mariadb_server.database}.looked_at"
    mariadb_server.ask(f"CREATE VIEW {name} AS {body}")
    try:
        assert kinds() == expected
    finally:
        mariadb_server.ask(f"DROP VIEW {name}")


def test_only_one_connection_asks_for_hidden_code(through, proxy):
    """Others are reset meanwhile, so that the pool does not open more of them."""
    pool = through(max_connections=3, autocommit=True)
    conns = [pool.acquire() for _ in range(3)]
    for conn in conns:
        rows(conn, SOIL)
    for conn in conns:
        pool.release(conn)
    wait_until(lambda: pool.stats().idle == 3, "reset")
    assert sum(b"information_schema.views" in each for each in said(proxy)) == 1
    assert parts.kinds_of_resets(pool) == frozenset(Kind)


def test_a_connection_that_is_lost_while_it_asks_decides_nothing(through, proxy):
    """The next one asks again."""
    pool = through(max_connections=1, autocommit=True)
    proxy.question = lambda data: None if b"information_schema" in data else data
    use(pool)
    assert not pool.size and parts.kinds_of_resets(pool) is None
    proxy.question = lambda data: data
    use(pool)
    assert parts.kinds_of_resets(pool) == frozenset(Kind)


def test_if_nothing_can_be_seen_nothing_is_trusted(kinds, proxy):
    """A server may have no such tables, or take too long over them."""
    proxy.question = lambda data: data.replace(
        b"information_schema", b"information_schemX"
    )
    assert kinds(host=proxy.host, port=proxy.port) == frozenset()
