"""reset_server_session: nothing of a session is passed on."""

from __future__ import annotations

import gevent
import pymysql
import pytest
from pymysql.cursors import SSCursor
from sqlalchemy import create_engine, event, exc, text
from sqlalchemy.pool import QueuePool

import geventpool.sqlalchemy
from geventpool.sqlalchemy import reset_server_session
from geventpool.testing import wait_until
from tests.mysql.proxy import RESET, UNKNOWN
from tests.mysql.states import STATES, Scene
from tests.mysql.test_reset import hates_several
from tests.mysql.test_states import is_known, scene  # noqa: F401  (a fixture)
from tests.sqlalchemy.conftest import core, through

#: What SQLAlchemy's own ROLLBACK leaves to the next borrower: the list in the
#: documentation, and the reason to have this.
LEFT_BY_ROLLBACK = {"time zone", "user variable", "temporary table", "named lock"}


@pytest.fixture()
def clean_engine(make_engine):
    """Makes engines whose sessions are reset."""

    def make(*args, configure=None, **options):
        engine = make_engine(*args, **{"pool_reset_on_return": None, **options})
        reset_server_session(engine, configure)
        return engine

    return make


def as_root(scene: Scene) -> str:  # noqa: F811
    server = scene.server
    return (
        f"mysql+pymysql://root@localhost/{server.database}"
        f"?unix_socket={server.unix_socket}"
    )


def is_clean(engine, scene, state) -> bool:  # noqa: F811
    """Whether the second borrower finds what a first one does."""
    first = engine.raw_connection()
    before = state.look(first.dbapi_connection, scene, None)
    first.invalidate()
    soiler = engine.raw_connection()
    left = state.soil(soiler.dbapi_connection, scene)
    soiler.close()
    looker = engine.raw_connection()
    after = state.look(looker.dbapi_connection, scene, left)
    session = looker.dbapi_connection.thread_id()
    looker.invalidate()
    wait_until(lambda: not is_known(scene.server, session), "session ended")
    return bool(before == after)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_it_cleans_every_state(clean_engine, scene, state):  # noqa: F811
    """All that geventpool.mysql knows of."""
    assert is_clean(clean_engine(as_root(scene)), scene, state)


@pytest.mark.parametrize("name", LEFT_BY_ROLLBACK)
def test_a_rollback_leaves_much(make_engine, scene, name):  # noqa: F811
    """Without it, that is: these tests can tell."""
    (state,) = (state for state in STATES if state.name == name)
    assert not is_clean(make_engine(as_root(scene)), scene, state)


QUESTION = "SELECT @@time_zone, @@tx_isolation, @@autocommit, @mine"


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "AUTOCOMMIT"])
def test_what_connect_had_set_is_set_again(make_engine, isolation):
    """By SQLAlchemy for the engine, by the program's listeners, and by configure."""
    engine = make_engine(isolation_level=isolation, pool_reset_on_return=None)

    @event.listens_for(engine, "connect")
    def connect(conn, record):
        with conn.cursor() as cursor:
            cursor.execute("SET time_zone='+03:00'")

    def configure(conn):
        conn.query("SET @mine=1")

    reset_server_session(engine, configure)
    with engine.connect() as conn:
        first = conn.execute(text(QUESTION)).one()
        conn.execute(text("SET time_zone='+05:00', @mine=7"))
        conn.execute(text("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
    for _ in range(2):
        with engine.connect() as conn:
            assert conn.execute(text(QUESTION)).one() == (*first[:3], 1)
    assert first[0] == "+03:00" and first[2] == (isolation == "AUTOCOMMIT")


def use(engine, statement="SELECT 1"):
    with engine.connect() as conn:
        conn.execute(text(statement))
        conn.commit()


def said(proxy):
    """The messages since the last look."""
    messages, proxy.asked[:] = list(proxy.asked), []
    return messages


#: Leaves something, but no locks.
SOIL = "SET @used=1"


def replied(engine):
    """Wait until the reset of the idle connection is answered."""
    (record,) = core(engine).idle_connections()
    conn = record.dbapi_connection
    wait_until(lambda: record.is_quiet() and not conn.pending, "replies")


def test_it_is_sent_when_the_connection_comes_back(clean_engine, proxy):
    """In one message, for whose answer nobody waits."""
    engine = clean_engine(through(proxy))
    use(engine)
    said(proxy)
    use(engine, SOIL)
    assert core(engine).idle_connections()[0].dbapi_connection.pending
    replied(engine)
    query, commit, reset = said(proxy)
    assert reset.startswith(RESET) and b"NAMES utf8mb4, autocommit=0" in reset
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT @used")) is None


def test_nothing_is_sent_for_a_loan_that_has_left_nothing(clean_engine, proxy, table):
    """Also not for one that has said nothing."""
    engine = clean_engine(through(proxy))
    use(engine)
    said(proxy)
    use(engine, f"SELECT v FROM {table}")
    assert [message[5:] for message in said(proxy)] == [
        f"SELECT v FROM {table}".encode(),
        b"COMMIT",
    ]
    with engine.connect():
        pass
    assert said(proxy) == []


GET_LOCK = "SELECT GET_LOCK('it', 0)"


@pytest.mark.parametrize("statement", [GET_LOCK, "BEGIN", "SET @a = SLEEP(0)"])
def test_a_loan_that_may_hold_locks_waits_for_its_reset(clean_engine, proxy, statement):
    """Others must find them released when close() returns."""
    engine = clean_engine(through(proxy))
    use(engine)
    conn = engine.raw_connection()
    conn.cursor().execute(statement)
    raw = conn.dbapi_connection
    conn.close()
    assert not raw.pending
    assert proxy.server.ask("SELECT IS_FREE_LOCK('it')") == [(1,)]


def test_with_sqlalchemys_own_reset_there_are_two(clean_engine, proxy):
    """It is not wrong to leave pool_reset_on_return as it is."""
    engine = clean_engine(through(proxy), pool_reset_on_return="rollback")
    use(engine)
    said(proxy)
    use(engine)
    assert said(proxy)[-1].endswith(b"ROLLBACK")


def test_a_server_that_knows_no_reset_gets_a_rollback(clean_engine, proxy, table):
    """From then on; what connect had set is set one after another."""
    engine = clean_engine(through(proxy), isolation_level="READ COMMITTED")
    proxy.question = lambda data: data.replace(RESET, UNKNOWN)
    for _ in range(2):
        conn = engine.raw_connection()
        conn.cursor().execute(f"INSERT INTO {table} VALUES (1, 1)")
        conn.close()
    messages = said(proxy)
    assert sum(message.startswith(RESET) for message in messages) == 1
    assert any(b"\x03ROLLBACK" in message for message in messages)
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT @@tx_isolation")) == "READ-COMMITTED"
    proxy.server.hang_up()


def test_a_proxy_that_wants_one_command_at_a_time_gets_that(clean_engine, proxy):
    """The first connection is lost over it, no other."""
    engine = clean_engine(through(proxy), isolation_level="READ COMMITTED")
    proxy.question = hates_several
    use(engine)
    ids = set()
    for _ in range(3):
        with engine.connect() as conn:
            ids.add(conn.scalar(text("SELECT CONNECTION_ID()")))
            assert conn.scalar(text("SELECT @@tx_isolation")) == "READ-COMMITTED"
    assert len(ids) == 1


def test_a_proxy_gets_what_listeners_had_set_one_by_one_too(clean_engine, proxy):
    """If it wants no reset with others, it wants no two settings together either."""
    engine = make_settings(clean_engine, through(proxy))
    proxy.question = hates_several
    use(engine, SOIL)
    use(engine, SOIL)
    said(proxy)
    use(engine, SOIL)
    messages = said(proxy)
    assert [b"SET @a" in message for message in messages].count(True) == 1
    assert not any(
        b"SET @a" in message and b"SET @b" in message for message in messages
    )
    with engine.connect() as conn:
        assert conn.execute(text("SELECT @a, @b")).one() == (1, 2)


def test_what_listeners_had_set_is_set_in_the_same_message(clean_engine, proxy):
    """However much it is."""
    engine = make_settings(clean_engine, through(proxy))
    use(engine)
    use(engine, SOIL)
    replied(engine)
    reset = said(proxy)[-1]
    assert RESET in reset and b"SET @a=1" in reset and b"SET @b=2" in reset


def make_settings(clean_engine, url):
    """An engine on which each connection has two variables."""
    engine = clean_engine(url)

    def connect(conn, record):
        conn.query("SET @a=1")
        conn.query("SET @b=2")

    event.listen(engine, "connect", connect, insert=True)
    return engine


def test_a_setting_that_fails_ends_the_connection(clean_engine, proxy):
    """It would not be what the next borrower expects."""
    engine = clean_engine(through(proxy), isolation_level="READ COMMITTED")
    use(engine)
    with engine.connect() as conn:
        before = conn.scalar(text("SELECT CONNECTION_ID()"))
    proxy.question = lambda data: data.replace(b"READ COMMITTED", b"READ WHATEVERX")
    use(engine, SOIL)
    (record,) = core(engine).idle_connections()
    wait_until(lambda: not record.is_quiet(), "an error")
    proxy.question = lambda data: data
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT CONNECTION_ID()")) != before


def test_the_first_setting_that_fails_ends_the_connection(clean_engine, proxy, caplog):
    """Before the pool knows its server it waits for the replies."""
    engine = clean_engine(through(proxy), isolation_level="READ COMMITTED")
    with engine.connect() as conn:
        before = conn.scalar(text("SELECT CONNECTION_ID()"))
        proxy.question = lambda data: data.replace(b"READ COMMITTED", b"READ WHATEVERX")
    proxy.question = lambda data: data
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT CONNECTION_ID()")) != before
    assert "Exception during reset" in caplog.text


def test_older_connections_are_renewed(make_engine):
    """They were opened before anybody was to reset them."""
    engine = make_engine(pool_reset_on_return=None)
    with engine.connect() as conn:
        before = conn.scalar(text("SELECT CONNECTION_ID()"))
        reset_server_session(engine)
        conn.execute(text("SET @x=1"))
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT CONNECTION_ID()")) != before
        assert conn.scalar(text("SELECT @x")) is None


def test_unread_rows_cost_the_connection(clean_engine, caplog):
    """They are not read, which could take long; and it is no error."""
    engine = clean_engine()
    conn = engine.raw_connection()
    cursor = conn.cursor(SSCursor)
    cursor.execute("SELECT seq FROM seq_1_to_100000")
    conn.close()
    wait_until(lambda: core(engine).stats().closing == 0)
    assert core(engine).idle_connections() == []
    with engine.connect() as again:
        assert again.scalar(text("SELECT 1")) == 1
    assert "Exception" not in caplog.text


def test_a_detached_connection_is_not_reset(clean_engine):
    """It is about to be closed, or its borrower's own."""
    engine = clean_engine()
    conn = engine.raw_connection()
    conn.cursor().execute("SET @x=1")
    conn.detach()
    conn.close()
    assert core(engine).size == 1


def test_interrupted_in_the_reset(clean_engine):
    """The connection goes, the place stays."""
    engine = clean_engine()

    def work():
        conn = engine.raw_connection()
        conn.cursor().execute("SET @x=1")
        conn.close()

    for delay in range(1, 6):
        victim = gevent.spawn(work)
        for _ in range(delay):
            gevent.idle()
        victim.kill()
        with engine.connect() as conn:
            assert conn.scalar(text("SELECT @x")) is None
    assert core(engine).size == 1


def test_it_works_with_other_pools(mysql_url):
    """It is but a set of listeners."""
    engine = create_engine(
        mysql_url, poolclass=QueuePool, pool_size=1, pool_reset_on_return=None
    )
    reset_server_session(engine)
    use(engine, "SET @x=1")
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT @x")) is None
    engine.dispose()


def provide(engine, **values):
    """A listener of do_connect that changes the arguments."""

    def listener(dialect, record, args, options):
        options.update(values)

    event.listen(engine, "do_connect", listener)


def test_a_listener_of_do_connect_may_be_registered_later(make_engine):
    """A token that is the password must reach the connect in either order."""
    engine = make_engine(pool_reset_on_return=None)
    provide(engine, init_command="SET @before=1")
    reset_server_session(engine)
    provide(engine, program_name="later", charset="latin1")
    with engine.connect() as conn:
        question = "SELECT @before, @@character_set_client"
        assert conn.execute(text(question)).one() == (1, "latin1")


def test_a_later_listener_of_do_connect_may_not_return_a_connection(
    make_engine, mariadb_server
):
    """As an earlier one: its session could not be reset."""
    engine = make_engine(pool_reset_on_return=None)
    reset_server_session(engine)
    event.listen(
        engine,
        "do_connect",
        lambda *args: pymysql.connect(**mariadb_server.client_options),
    )
    with pytest.raises(TypeError, match="without a creator"):
        engine.connect()


def test_what_later_listeners_of_connect_set_is_set_again(make_engine):
    """Also by one that is registered when the engine has connected already."""
    engine = make_engine(pool_reset_on_return=None)
    reset_server_session(engine)
    for number, name in enumerate("ab"):
        event.listen(
            engine,
            "connect",
            lambda conn, record, name=name: conn.query(f"SET @{name}='{name}'"),
        )
        engine.dispose()
        for _ in range(2):
            with engine.connect() as conn:
                names = conn.execute(text("SELECT @a, @b")).one()
                assert names == (("a", None), ("a", "b"))[number]
                conn.execute(text("SET @a=0, @b=0"))


def test_what_listeners_of_connect_read_leaves_no_read_view(
    make_engine, mariadb_server, table
):
    """An idle connection with one would show its next borrower old data."""
    engine = make_engine(pool_reset_on_return=None)
    question = f"SELECT COUNT(*) FROM {table}"

    @event.listens_for(engine, "connect")
    def connect(conn, record):
        conn.cursor().execute(question)
        mariadb_server.ask(f"INSERT INTO {table} VALUES (1, 0)")

    reset_server_session(engine)
    with engine.connect() as conn:
        assert conn.scalar(text(question)) == 1


@pytest.mark.parametrize("poolclass", [None, QueuePool])
def test_after_a_fail_over_connections_are_renewed(make_engine, own_server, poolclass):
    """All of a GreenletPool; a QueuePool closes the one that met it."""
    account = {**own_server.client_options}
    url = "mysql+pymysql://{user}:{password}@{host}:{port}/{database}".format(**account)
    if poolclass is None:
        engine = make_engine(url, pool_size=2, pool_reset_on_return=None)
    else:
        engine = create_engine(
            url, poolclass=poolclass, pool_size=2, pool_reset_on_return=None
        )
    reset_server_session(engine)

    def number(conn):
        return conn.scalar(text("SELECT CONNECTION_ID()"))

    with engine.connect() as first, engine.connect() as second:
        before = {number(first), number(second)}
    own_server.ask("SET GLOBAL read_only=1")
    try:
        with pytest.raises(exc.DBAPIError, match="1290"), engine.connect() as conn:
            conn.execute(text("CREATE TABLE never (i INT)"))
    finally:
        own_server.ask("SET GLOBAL read_only=0")
    with engine.connect() as first, engine.connect() as second:
        kept = before & {number(first), number(second)}
        assert len(kept) == (0 if poolclass is None else 1)
    engine.dispose()


def test_other_drivers_are_refused():
    """And what is no engine, or cannot be called."""
    engine = create_engine("sqlite://")
    with pytest.raises(ValueError, match="mysql.pymysql.*, not sqlite.pysqlite"):
        reset_server_session(engine)
    with pytest.raises(TypeError, match="engine must be an Engine"):
        reset_server_session("mysql+pymysql://")  # type: ignore[arg-type]
    engine = create_engine("mysql+pymysql://")
    with pytest.raises(TypeError, match="configure must be a callable"):
        reset_server_session(engine, configure=5)  # type: ignore[arg-type]


def test_a_creator_is_refused_when_it_connects(make_engine, mariadb_server):
    """Its connections are not ours."""
    engine = make_engine(
        creator=lambda: pymysql.connect(**mariadb_server.client_options)
    )
    reset_server_session(engine)
    with pytest.raises(TypeError, match="without a creator"):
        engine.connect()


def test_the_package_has_no_other_names():
    """The lazy import hides no mistakes."""
    with pytest.raises(AttributeError, match="no attribute 'reset_sessions'"):
        geventpool.sqlalchemy.reset_sessions
