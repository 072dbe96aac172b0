"""The guarded connection: interruptions, second greenlets, odd answers."""

from __future__ import annotations

import gc
import warnings

import gevent
import gevent.socket
import pymysql
import pytest
from pymysql import err
from pymysql.connections import MySQLResult
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor

from geventpool.mysql import ConnectionInUseError, protocol
from geventpool.testing import no_switch, wait_until
from tests.mysql.conftest import rows, value
from tests.pauses import give_up_after
from tests.peers import open_sockets

MEGABYTE = 1 << 20


def result_of(conn):
    """The result that the connection has, or reads."""
    return conn._result


class Pause(Exception):
    """Thrown into a greenlet that waits."""


def outcome(work, *args):
    """What it returns, or what it raises, be it a kill."""
    try:
        return work(*args)
    except BaseException as error:
        return error


def begin(work, *args):
    """A greenlet that has begun, and waits for something now; see :func:`outcome`."""
    greenlet = gevent.spawn(outcome, work, *args)
    gevent.idle()
    assert not greenlet.ready()
    return greenlet


# Interrupted


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout, Pause])
def test_an_interrupted_write_closes_the_connection(through, proxy, error):
    """Half a packet on the wire would swallow the next command as its other half."""
    conn = through().acquire(reclaim=False)
    proxy.listening.clear()
    big = "SELECT '%s'" % ("x" * 12 * MEGABYTE)
    writer = begin(rows, conn, big)
    writer.kill(error, block=True)
    assert not conn.open
    with pytest.raises(err.InterfaceError):
        rows(conn, "SELECT 1")
    proxy.listening.set()


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout, Pause])
def test_an_interrupted_read_closes_the_connection(make_pool, error):
    """The answer that is still under way belongs to nobody."""
    conn = make_pool().acquire(reclaim=False)
    reader = begin(rows, conn, "SELECT SLEEP(20)")
    reader.kill(error, block=True)
    assert not conn.open


def test_a_timeout_within_the_block_costs_that_connection(make_pool):
    """A Timeout caught inside of the block does not make the connection clean."""
    pool = make_pool(max_connections=1, cancel=False)
    conn = pool.acquire()
    with give_up_after(0.05):
        rows(conn, "SELECT SLEEP(20), 'secret'")
    pool.release(conn)
    assert not conn.open
    with pool.connection() as another:
        assert another is not conn
        assert value(another, "SELECT 'mine'") == "mine"


@pytest.fixture()
def infile(tmp_path):
    """A file of two million rows."""
    path = tmp_path / "rows.csv"
    path.write_text("".join(f"{i},0\n" for i in range(1_500_000)))
    return str(path)


def load(conn, path, table):
    return rows(
        conn,
        f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE {table} FIELDS TERMINATED BY ','",
    )


def test_load_data_works(make_pool, table, tmp_path):
    """A file arrives whole, and the connection goes on."""
    path = tmp_path / "few.csv"
    path.write_text("1,10\n2,20\n")
    with make_pool(local_infile=True).connection() as conn:
        load(conn, path, table)
        assert rows(conn, f"SELECT * FROM {table}") == [(1, 10), (2, 20)]


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout])
def test_an_interrupted_load_ends_as_what_interrupted_it(
    through, proxy, table, infile, error
):
    """LOAD DATA does not outlive a kill, commit half a file, or hide a Timeout."""
    conn = through(local_infile=True).acquire(reclaim=False)
    rows(conn, "SELECT 1")
    proxy.listening.clear()
    loader = begin(load, conn, infile, table)
    stop = error()
    loader.kill(stop, block=True, timeout=5)
    assert loader.get(timeout=0) is stop
    assert not conn.open
    proxy.listening.set()
    proxy.hang_up_all()
    assert proxy.server.ask(f"SELECT COUNT(*) FROM {table}") == [(0,)]


def test_a_file_that_is_not_there_leaves_the_connection_in_step(make_pool, table):
    """The error is ours, and the server has been told."""
    with make_pool(local_infile=True).connection() as conn:
        with pytest.raises(err.OperationalError, match="find file|open file"):
            load(conn, "/does/not/exist", table)
        assert value(conn, "SELECT 5") == 5


def test_a_server_that_asks_for_a_file_unasked_loses_the_connection(make_pool, table):
    """Without local_infile no file is sent, and nobody waits for it either."""
    conn = make_pool(client_flag=CLIENT.LOCAL_FILES).acquire()
    with pytest.raises(RuntimeError, match="local_infile"):
        load(conn, "/etc/hostname", table)
    assert not conn.open


# A second greenlet


def test_a_second_greenlet_is_refused_before_anything_is_sent(through, proxy):
    """The error names the owner of the connection; the owner gets its own answers."""
    conn = through().acquire(reclaim=False)
    owner = begin(value, conn, "SELECT CONCAT('owner', SLEEP(0.2))")
    said = len(proxy.asked)
    for intrude in (
        lambda: rows(conn, "SELECT 'intruder'"),
        conn.ping,
        conn.connect,
        conn.commit,
        conn.show_warnings,
        conn.next_result,
        lambda: conn.set_character_set("latin1"),
        lambda: conn.pipeline([(0x0E, b"")]),
        conn.finish,
    ):
        with pytest.raises(ConnectionInUseError, match="in use by another greenlet"):
            intrude()
    assert len(proxy.asked) == said
    assert owner.get(timeout=5) == "owner0"
    assert value(conn, "SELECT 'mine'") == "mine"


def test_a_second_greenlet_cannot_read_the_first_ones_rows(through, proxy):
    """Nor disturb it while it waits for the next one."""
    conn = through().acquire(reclaim=False)
    cursor = conn.cursor(SSCursor)
    owner = begin(cursor.execute, "SELECT SLEEP(0.3)")
    with pytest.raises(ConnectionInUseError):
        conn._read_packet()
    with pytest.raises(ConnectionInUseError):
        rows(conn, "SELECT 1")
    assert isinstance(owner.get(), int)
    assert cursor.fetchall() == [(0,)]


def test_a_stream_belongs_to_the_greenlet_that_began_it(make_pool):
    """Another one must not drain the rows that its owner is about to read."""
    conn = make_pool().acquire(reclaim=False)
    cursor = conn.cursor(SSCursor)
    cursor.execute("SELECT seq FROM seq_1_to_3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        intruder = gevent.spawn(outcome, rows, conn, "SELECT 1")
        assert isinstance(intruder.get(), ConnectionInUseError)
    assert list(cursor) == [(1,), (2,), (3,)]
    assert gevent.spawn(value, conn, "SELECT 4").get() == 4


def test_a_connection_may_go_from_hand_to_hand(make_pool):
    """One greenlet at a time: not always the same."""
    conn = make_pool().acquire(reclaim=False)
    for number in range(3):
        assert gevent.spawn(value, conn, f"SELECT {number}").get() == number


def test_a_converter_must_not_ask_on_its_own_connection(make_pool):
    """In the middle of an answer there is no place for another question."""
    conn = make_pool().acquire(reclaim=False)
    conn.decoders[8] = lambda text: conn.ping()
    with pytest.raises(ConnectionInUseError, match="not answered"):
        rows(conn, "SELECT 5000000000")


# Closed from outside


def test_a_connection_can_be_closed_under_its_reader(make_pool):
    """The reader gets an error at once."""
    conn = make_pool().acquire(reclaim=False)
    reader = begin(rows, conn, "SELECT SLEEP(20)")
    with no_switch():
        conn.terminate()
    lost = reader.get(timeout=5)
    assert isinstance(lost, err.OperationalError) and lost.args[0] == 2013
    assert not conn.open


def test_a_connection_can_be_closed_under_its_writer(through, proxy):
    """Also while it waits for room on the wire."""
    conn = through().acquire(reclaim=False)
    proxy.listening.clear()
    writer = begin(rows, conn, "SELECT '%s'" % ("x" * 12 * MEGABYTE))
    conn.terminate()
    gone = writer.get(timeout=5)
    assert isinstance(gone, err.OperationalError) and gone.args[0] == 2006
    proxy.listening.set()


def test_rows_end_with_an_error_if_the_connection_ends(make_pool):
    """Half of a result must not look like the whole."""
    conn = make_pool().acquire(reclaim=False)
    cursor = conn.cursor(SSCursor)
    cursor.execute("SELECT seq, REPEAT('x', 1000) FROM seq_1_to_1000")
    result = result_of(conn)
    cursor.fetchone()
    conn.terminate()
    with pytest.raises(err.OperationalError, match="closed"):
        result._read_rowdata_packet_unbuffered()


def test_a_goodbye_is_not_said_into_another_ones_conversation(make_pool):
    """Closing politely while somebody reads is closing at once."""
    conn = make_pool().acquire(reclaim=False)
    reader = begin(rows, conn, "SELECT SLEEP(20)")
    conn.send_quit()
    assert isinstance(reader.get(timeout=5), err.OperationalError)


def test_a_lost_connection_is_not_made_anew_by_a_ping(make_pool):
    """It would have forgotten its session, and nobody would know."""
    conn = make_pool().acquire(reclaim=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        conn.ping(reconnect=True)
        conn.terminate()
        with pytest.raises(err.Error):
            conn.ping(reconnect=True)
    assert not conn.open


def test_connecting_again_by_hand_leaks_nothing(make_pool):
    """A greenlet that asks for it gets a new session, and the old one ends."""
    conn = make_pool().acquire(reclaim=False)
    before, first = open_sockets(), conn.thread_id()
    conn.connect()
    assert conn.thread_id() != first
    assert len(open_sockets()) == len(before)
    assert value(conn, "SELECT 1") == 1


# Answers


def test_a_value_that_cannot_be_decoded_closes_the_connection(make_pool):
    """The rows behind it would be the answer to the next question."""
    conn = make_pool().acquire(reclaim=False)
    conn.decoders[8] = lambda text: 1 // 0
    with pytest.raises(ZeroDivisionError):
        rows(conn, "SELECT seq FROM seq_1_to_9")
    assert not conn.open


def test_an_answer_that_is_none_closes_the_connection(through, proxy):
    """A result where an OK was due: somebody is out of step."""
    conn = through().acquire(reclaim=False)
    proxy.question = lambda data: (
        data.replace(b"COMMIT", b"DO 1;#")
        and (b"\x09\x00\x00\x00\x03SELECT 1" if b"COMMIT" in data else data)
    )
    with pytest.raises(err.OperationalError) as out_of_sync:
        conn.commit()
    assert out_of_sync.value.args[0] == 2014
    assert not conn.open


def test_a_packet_out_of_order_closes_the_connection(through, proxy):
    """Packets are numbered so that a mix-up is noticed."""
    conn = through().acquire(reclaim=False)
    proxy.answer = lambda data: data[:3] + b"\x07" + data[4:]
    with pytest.raises(err.InternalError, match="got 7 expected 1"):
        conn.ping(reconnect=False)
    assert not conn.open


def test_a_server_that_shuts_down_says_so_out_of_order(through, proxy):
    """MariaDB's last words bear the number 0: the connection is lost, not mixed up."""
    conn = through().acquire(reclaim=False)
    proxy.answer = lambda data: data[:3] + b"\x00" + data[4:]
    with pytest.raises(err.OperationalError, match="shutting down"):
        conn.ping(reconnect=False)


def test_an_answer_may_arrive_byte_by_byte(through, proxy):
    """How the network cuts an answer into pieces does not matter."""
    conn = through().acquire(reclaim=False)
    whole: list[bytes] = []

    def drip(data):
        whole.append(data)
        for sock in list(proxy._sockets):
            for i in range(len(data)):
                sock.sendall(data[i : i + 1])
                gevent.sleep(0)
        return b""

    proxy.answer = drip
    assert rows(conn, "SELECT 1, 'two' UNION SELECT 3, 'four'") == [
        (1, "two"),
        (3, "four"),
    ]
    assert whole


def test_a_value_may_be_larger_than_a_packet(make_pool, mariadb_server):
    """What does not fit into 16 MB comes in several packets."""
    mariadb_server.ask("SET GLOBAL max_allowed_packet=67108864")
    try:
        with make_pool().connection() as conn:
            assert len(value(conn, f"SELECT REPEAT('x', {17 * MEGABYTE})")) == (
                17 * MEGABYTE
            )
            assert value(conn, "SELECT 5") == 5
    finally:
        mariadb_server.ask("SET GLOBAL max_allowed_packet=16777216")


def test_a_statement_may_be_of_any_length(make_pool):
    """Whatever way it is sent."""
    with make_pool().connection() as conn:
        for length in 10, 16 * 1024, 100 * 1024, 3 * MEGABYTE:
            assert value(conn, "SELECT LENGTH('%s')" % ("x" * length)) == length


def test_others_run_while_a_large_result_is_read(make_pool):
    """A result that arrives faster than it is read does not stop the world."""
    conn = make_pool().acquire(reclaim=False)
    ticks = []

    def tick():
        while True:
            gevent.sleep(0)
            ticks.append(1)

    ticker = gevent.spawn(tick)
    rows(conn, "SELECT REPEAT('x', 100) FROM seq_1_to_50000")
    ticker.kill()
    assert len(ticks) > 3


def test_time_limits_of_reading_and_writing_hold(make_pool, through, proxy):
    """read_timeout and write_timeout are PyMySQL's, and still work."""
    conn = make_pool(read_timeout=0.1).acquire(reclaim=False)
    with pytest.raises(err.OperationalError, match="timed out|imeout"):
        rows(conn, "SELECT SLEEP(20)")
    conn = through(write_timeout=0.1, read_timeout=5).acquire(reclaim=False)
    proxy.listening.clear()
    with pytest.raises(err.OperationalError) as gone:
        rows(conn, "SELECT '%s'" % ("x" * 12 * MEGABYTE))
    assert gone.value.args[0] == 2006
    proxy.listening.set()


def test_the_server_may_hang_up_in_the_middle(through, proxy):
    """An answer that ends too soon is a lost connection."""
    conn = through().acquire(reclaim=False)
    proxy.answer = lambda data: None
    with pytest.raises(err.OperationalError, match="hung up"):
        rows(conn, "SELECT 1")


# Streams and several results


def test_an_unfinished_stream_is_drained_before_the_next_command(make_pool):
    """PyMySQL warns of it and goes on; so do we."""
    conn = make_pool().acquire(reclaim=False)
    cursor = conn.cursor(SSCursor)
    cursor.execute("SELECT seq FROM seq_1_to_1000")
    cursor.fetchone()
    with pytest.warns(UserWarning, match="left incomplete"):
        assert value(conn, "SELECT 'mine'") == "mine"


def test_results_of_a_procedure_are_drained_before_the_next_command(
    make_pool, mariadb_server
):
    """A procedure's results need not be fetched."""
    mariadb_server.ask(
        "CREATE OR REPLACE PROCEDURE geventpool.three() BEGIN "
        "SELECT 1; SELECT 2; SELECT 3; END"
    )
    conn = make_pool().acquire(reclaim=False)
    conn.cursor().execute("CALL three()")
    assert conn.unfinished
    assert value(conn, "SELECT 'mine'") == "mine"
    conn.cursor(SSCursor).execute("CALL three()")
    conn.finish()
    assert conn.in_step


def test_an_error_in_a_stream_ends_it(make_pool):
    """After the error the connection is in step."""
    conn = make_pool().acquire(reclaim=False)
    cursor = conn.cursor(SSCursor)
    cursor.execute("SET max_statement_time=0.1")
    with pytest.raises(err.OperationalError) as limit:
        cursor.execute("SELECT seq, SLEEP(seq > 2), REPEAT('x', 20000) FROM seq_1_to_9")
        list(cursor)
    assert limit.value.args[0] == 1969
    assert conn.in_step
    assert conn.status_may_be_stale


def test_a_stream_that_is_forgotten_reads_nothing_when_collected(make_pool):
    """A finalizer runs anywhere, even in the hub; it must not read."""
    conn = make_pool().acquire(reclaim=False)
    cursor = conn.cursor(SSCursor)
    cursor.execute("SELECT seq FROM seq_1_to_1000")
    with no_switch():
        result_of(conn).__del__()
        del cursor
        gc.collect()
    assert conn.unfinished


def test_closing_a_cursor_of_a_lost_connection_is_no_error(make_pool):
    """There is nothing left to be read."""
    conn = make_pool().acquire(reclaim=False)
    with conn.cursor(SSCursor) as cursor:
        cursor.execute("SELECT seq FROM seq_1_to_1000")
        conn._force_close()


# What the status says


@pytest.mark.parametrize(
    ("statements", "held"),
    [
        ([], False),
        (["INSERT INTO {0} VALUES (1, 1)"], False),
        (["SELECT * FROM {0}"], False),
        (["BEGIN"], True),
        (["BEGIN", "SELECT * FROM {0}"], True),
        (["BEGIN", "COMMIT"], False),
        (["SET autocommit=0", "SELECT * FROM {0}"], True),
        (["SET autocommit=0", "SELECT * FROM {0} FOR UPDATE", "SET @x=1"], True),
        (["SET autocommit=0", "SELECT * FROM {0}", "COMMIT"], False),
    ],
)
def test_a_transaction_is_never_overlooked(make_pool, table, statements, held):
    """Where the status can't be trusted a transaction is assumed."""
    conn = make_pool(autocommit=True).acquire(reclaim=False)
    for statement in statements:
        rows(conn, statement.format(table))
    assert conn.may_hold_transaction == held


def test_a_stream_without_autocommit_may_hold_a_transaction(make_pool):
    """The status of its statement comes with its last row."""
    conn = make_pool(autocommit=False).acquire(reclaim=False)
    cursor = conn.cursor(SSCursor)
    cursor.execute("SELECT seq FROM seq_1_to_1000")
    assert conn.may_hold_transaction
    cursor.close()


def test_an_unknown_status_without_autocommit_may_hide_a_transaction(make_pool):
    """The status in the reply to SHOW WARNINGS is not noted."""
    conn = make_pool(autocommit=False).acquire(reclaim=False)
    conn.show_warnings()
    assert conn.may_hold_transaction


def test_an_error_may_hide_a_transaction(make_pool, table, mariadb_server):
    """A procedure that begins a transaction and then fails leaves no trace of it."""
    mariadb_server.ask(
        "CREATE OR REPLACE PROCEDURE geventpool.sly() BEGIN START TRANSACTION; "
        f"INSERT INTO {table} VALUES (1, 1); SIGNAL SQLSTATE '45000'; END"
    )
    conn = make_pool(autocommit=True).acquire(reclaim=False)
    with pytest.raises(pymysql.MySQLError):
        rows(conn, "CALL sly()")
    assert not conn.server_status & 1
    assert conn.may_hold_transaction
    conn.ping(reconnect=False)
    assert conn.server_status & 1


def test_several_statements_at_once_are_never_plain(make_pool):
    """Only the first one can be seen."""
    conn = make_pool(client_flag=CLIENT.MULTI_STATEMENTS).acquire(reclaim=False)
    rows(conn, "SELECT 1")
    assert not conn.session_unchanged


def test_rows_are_inserted_many_at_a_time(make_pool, table):
    """PyMySQL puts such a statement together in a bytearray."""
    conn = make_pool(autocommit=True).acquire(reclaim=False)
    insert = f"INSERT INTO {table} VALUES (%s, %s)"
    with conn.cursor() as cursor:
        assert cursor.executemany(insert, [(1, 2), (3, 4)]) == 2
    assert conn.session_unchanged and conn.in_step
    assert rows(conn, f"SELECT * FROM {table}") == [(1, 2), (3, 4)]


# Several commands at once


def test_commands_are_answered_in_order(make_pool):
    """One write, as many answers as commands, errors among them."""
    conn = make_pool().acquire(reclaim=False)
    answers = conn.pipeline([(3, b"SET @a=1"), (3, b"SET nonsense=1"), (0x0E, b"")])
    assert answers[0] is None and answers[2] is None
    assert answers[1].args[0] == 1193
    assert value(conn, "SELECT @a") == 1


def test_commands_that_are_not_all_answered_close_the_connection(through, proxy):
    """Answers that came too late would be given to the next command."""
    conn = through().acquire(reclaim=False)
    proxy.answer = lambda data: None
    with pytest.raises(err.OperationalError):
        conn.pipeline([(3, b"SET @a=1"), (0x0E, b"")])
    assert not conn.open


def test_nothing_is_said_on_a_closed_connection(make_pool):
    """Whatever is asked of it."""
    conn = make_pool().acquire(reclaim=False)
    conn.terminate()
    for ask in (conn.commit, conn.finish, lambda: conn.pipeline([(0x0E, b"")])):
        with pytest.raises(err.InterfaceError):
            ask()
    assert not conn.is_quiet()
    assert not conn.in_step
    assert repr(protocol.IN_POOL) == "its pool"
    wait_until(lambda: not conn.open, "closed")


def test_an_answer_of_many_large_rows_is_read(make_pool):
    """Packets are numbered modulo 256, those too large for one look as well."""
    conn = make_pool().acquire(reclaim=False)
    found = rows(conn, "SELECT REPEAT('x', 40000) FROM seq_1_to_600")
    assert len(found) == 600
    conn.close()


def test_an_interruption_that_pymysql_replaces_reaches_the_borrower(
    make_pool, monkeypatch
):
    """PyMySQL raises an error of its own in place of a kill or a timeout."""
    conn = make_pool().acquire()

    def interrupted(self, data, *more):
        raise KeyboardInterrupt

    def replaced(self):
        patch.setattr(gevent.socket.socket, "send", interrupted)
        try:
            self.connection.write_packet(b"")
        except KeyboardInterrupt:
            raise err.OperationalError(2013, "Lost connection") from None

    with monkeypatch.context() as patch:
        patch.setattr(MySQLResult, "read", replaced)
        with pytest.raises(KeyboardInterrupt):
            conn._read_query_result()
