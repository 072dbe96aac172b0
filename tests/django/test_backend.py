"""A connection's life: borrowed when Django connects, given back when it closes."""

from __future__ import annotations

import gc
from typing import Any

import gevent
import pymysql
import pytest
from django.core.management import call_command
from django.core.signals import request_finished
from django.db import (
    DatabaseError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
    connections,
    transaction,
)
from gevent import monkey
from gevent.event import Event

from geventpool import (
    NotPatchedError,
    NotPatchedWarning,
    PoolClosedError,
    PoolExhaustedError,
)
from geventpool.django.mysql import pools as room
from geventpool.mysql import Connection
from geventpool.testing import wait_until
from tests.django.conftest import Request, settle, value
from tests.django.project.models import Account
from tests.mysql.conftest import is_running
from tests.mysql.proxy import RESET, UNKNOWN, Proxy
from tests.test_patching import warn_again

SELECT = b"SELECT `project_account`"


def test_closing_gives_the_connection_back(make):
    """The next one who connects gets the very same."""
    wrapper = make()
    wrapper.ensure_connection()
    first = wrapper.connection
    assert isinstance(first, Connection)
    wrapper.close()
    assert wrapper.connection is None
    wait_until(lambda: wrapper.pool.idle_connections() == [first], "back")
    assert value(wrapper, "SELECT 1") == 1
    assert wrapper.connection is first


def test_the_end_of_a_request_gives_the_connection_back(accounts):
    """Django closes what has no time to live."""
    with Request():
        assert Account.objects.get(number=3).balance == 100
        assert connection.pool.stats().in_use == 1
    assert connection.pool.stats().in_use == 0


def test_all_greenlets_share_one_pool(accounts, migrated):
    """However many there are, the server sees no more than the limit."""
    seen = []
    before = migrated.connections()

    def ask() -> None:
        with Request():
            assert Account.objects.filter(balance=100).count() == 10
            seen.append(connection.connection.thread_id())

    crowd = [gevent.spawn(ask) for _ in range(60)]
    gevent.joinall(crowd, raise_error=True)
    assert len(seen) == 60
    # The default is ten.
    assert len(set(seen)) <= 10
    assert migrated.connections() <= before + 10


def test_a_warm_request_that_reads_is_one_round_trip(accounts, trips):
    """No isolation level, no time zone, no autocommit, no reset: only the question."""
    with Request():
        Account.objects.count()
    settle(connection.pool)
    trips.clear()
    for number in range(3):
        with Request():
            Account.objects.get(number=number)
    gevent.idle()
    assert [trip[: len(SELECT)] for trip in trips] == [SELECT] * 3


def test_a_request_that_makes_an_id_costs_a_reset(accounts, trips):
    """Django asks for it by RETURNING; nobody waits for the round trip."""
    with Request():
        Account.objects.create(number=10)
        trips.clear()
    settle(connection.pool)
    assert len(trips) == 1 and b"READ COMMITTED" in trips[0]


def test_a_request_that_updates_costs_nothing_more(accounts, trips):
    """An update leaves nothing in the session."""
    with Request():
        Account.objects.filter(number=1).update(balance=5)
    settle(connection.pool)
    trips.clear()
    with Request():
        Account.objects.filter(number=1).update(balance=6)
    settle(connection.pool)
    assert len(trips) == 1


def test_a_transaction_that_reads_costs_no_reset(accounts, trips):
    """What it leaves is known: the server has said that it is over."""
    with Request():
        Account.objects.count()
    settle(connection.pool)
    trips.clear()
    with Request(), transaction.atomic():
        Account.objects.get(number=1)
    gevent.idle()
    assert [trip[:10] for trip in trips] == [
        b"SET AUTOCO",
        SELECT[:10],
        b"COMMIT",
        b"SET AUTOCO",
    ]


DIRT = {
    "user variable": ("SELECT @mine := 1", "SELECT @mine", None),
    "lock by name": (
        "SELECT GET_LOCK('ours', 1)",
        "SELECT IS_FREE_LOCK('ours')",
        1,
    ),
    "isolation level": (
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT @@tx_isolation",
        "READ-COMMITTED",
    ),
    "time zone": ("SET time_zone = '+07:00'", "SELECT @@time_zone", "SYSTEM"),
    "autocommit": ("SET autocommit = 0", "SELECT @@autocommit", 1),
    "foreign keys": ("SET foreign_key_checks = 0", "SELECT @@foreign_key_checks", 1),
}


@pytest.mark.parametrize("way", ["django", "driver"])
@pytest.mark.parametrize("name", DIRT)
def test_nothing_of_a_session_is_passed_on(make, name, way):
    """Whatever was set, and whether through Django or past it."""
    dirty, question, clean = DIRT[name]
    wrapper = make({"max_connections": 1})
    wrapper.ensure_connection()
    lent = wrapper.connection
    with wrapper.cursor() if way == "django" else lent.cursor() as cursor:
        cursor.execute(dirty)
    # What comes after it does not make it undone.
    assert value(wrapper, "SELECT 1") == 1
    wrapper.close()
    assert value(wrapper, question) == clean
    assert wrapper.connection is lent


@pytest.mark.parametrize("reset", ["needed", "session"])
@pytest.mark.parametrize("init_command", [None, "SET @@sql_select_limit = 7"])
def test_the_isolation_level_is_that_of_the_settings(make, reset, init_command):
    """Of the first borrower and of all later ones."""
    options = {"isolation_level": "repeatable read"}
    if init_command:
        options["init_command"] = init_command
    wrapper = make({"max_connections": 1, "reset": reset}, options)
    for _ in range(3):
        assert value(wrapper, "SELECT @@tx_isolation") == "REPEATABLE-READ"
        limit = value(wrapper, "SELECT @@sql_select_limit")
        assert (limit == 7) == bool(init_command)
        with wrapper.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        wrapper.close()


def test_the_settings_win_over_a_command_of_the_projects_own(make):
    """At the first loan and at all others: Django's own sets the level after it."""
    command = "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"
    wrapper = make({"max_connections": 1}, {"init_command": command})
    for _ in range(2):
        assert value(wrapper, "SELECT @@tx_isolation") == "READ-COMMITTED"
        wrapper.close()


def test_a_read_in_an_open_transaction_is_cleaned_up(accounts, trips):
    """It may hold locks, and it holds its view of the data."""
    with Request():
        transaction.set_autocommit(False)
        Account.objects.get(number=1)
        trips.clear()
    settle(connection.pool)
    assert len(trips) == 1 and b"autocommit=1" in trips[0]


def test_without_an_isolation_level_the_servers_own_is_left(make, trips):
    """As with Django's own backend."""
    wrapper = make(options={"isolation_level": None})
    assert value(wrapper, "SELECT @@tx_isolation") == "REPEATABLE-READ"
    assert not any(b"ISOLATION" in trip for trip in trips)


def test_a_server_without_resets_gets_a_rollback(make, migrated):
    """And then what Django wants of a session."""
    options = {"max_connections": 1, "reset": "session"}
    with Proxy(migrated) as proxy:
        proxy.question = lambda data: data.replace(RESET, UNKNOWN)
        wrapper = make(options, HOST=proxy.host, PORT=proxy.port)
        with wrapper.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        wrapper.close()
        assert value(wrapper, "SELECT @@tx_isolation") == "READ-COMMITTED"
        asked = b"".join(proxy.asked)
        assert RESET in asked and b"\x03ROLLBACK" in asked
        wrapper.close()
        wrapper.close_pool()


def test_a_rollback_is_enough_for_who_says_so(make, trips):
    """It costs nothing where the server says that no transaction is open."""
    wrapper = make({"max_connections": 1, "reset": "rollback"})
    wrapper.ensure_connection()
    wrapper.close()
    settle(wrapper.pool)
    value(wrapper, "SELECT @mine := 1")
    wrapper.close()
    trips.clear()
    assert value(wrapper, "SELECT @mine") == 1
    assert len(trips) == 1
    wrapper.set_autocommit(False)
    wrapper.close()
    assert value(wrapper, "SELECT @@in_transaction") == 0
    assert wrapper.get_autocommit()


def test_a_callable_may_clean(make):
    """The project's own, called with the connection."""
    cleaned: list[Any] = []
    wrapper = make({"reset": cleaned.append, "configure": cleaned.append})
    wrapper.ensure_connection()
    conn = wrapper.connection
    wrapper.close()
    wait_until(lambda: wrapper.pool.stats().idle == 1, "cleaned")
    assert cleaned == [conn, conn]


def test_an_exhausted_pool_is_an_operational_error(make):
    """Django's, which programs catch; the pool's own is its cause."""
    wrapper = make({"max_connections": 1, "timeout": 0.3})
    other = wrapper.copy()
    assert other.pool is wrapper.pool
    wrapper.ensure_connection()
    with pytest.raises(OperationalError, match="exhausted") as caught:
        other.ensure_connection()
    assert isinstance(caught.value.__cause__, PoolExhaustedError)
    assert other.connection is None
    wrapper.close()
    other.ensure_connection()
    other.close()


def test_a_server_that_refuses_is_djangos_error(make):
    """Unchanged but for its class."""
    wrapper = make({"timeout": 5}, PASSWORD="wrong")
    with pytest.raises(OperationalError) as caught:
        wrapper.ensure_connection()
    assert caught.value.args[0] == 1045


def test_closing_within_atomic_ends_the_transaction(accounts):
    """The connection is somebody else's from then on; the block knows only an error."""
    with pytest.raises(DatabaseError), transaction.atomic():
        Account.objects.filter(number=1).update(balance=0)
        lent = connection.connection
        connection.close()
        assert connection.pool.stats().in_use == 0
        assert connection.connection is not lent and not connection.connection.open
        Account.objects.count()
    assert connection.connection is None
    assert Account.objects.get(number=1).balance == 100


def test_a_transaction_left_open_is_rolled_back(accounts):
    """And the next one begins in autocommit."""
    with Request():
        transaction.set_autocommit(False)
        Account.objects.filter(number=1).update(balance=0)
    with Request():
        assert connection.get_autocommit()
        assert Account.objects.get(number=1).balance == 100


def test_savepoints_work(accounts):
    """The inner block is undone, the outer one is not."""
    with transaction.atomic():
        Account.objects.filter(number=1).update(balance=1)
        with pytest.raises(IntegrityError), transaction.atomic():
            Account.objects.create(number=1)
        Account.objects.filter(number=2).update(balance=2)
    assert Account.objects.filter(balance__lt=100).count() == 2


def test_a_greenlet_that_dies_loses_its_place(accounts):
    """No request has finished, nobody has closed anything."""

    def ask() -> None:
        Account.objects.count()
        assert connection.pool.stats().in_use == 1

    gevent.spawn(ask).join()
    wait_until(lambda: connection.pool.stats().in_use == 0, "its place is free")


def test_a_forgotten_wrapper_loses_its_place(make):
    """Nobody could give its connection back."""
    wrapper = make()
    other = wrapper.copy()
    other.ensure_connection()
    assert wrapper.pool.stats().in_use == 1
    del other
    gc.collect()
    assert wrapper.pool.stats().in_use == 0


def test_a_wrapper_forgotten_in_another_thread_frees_its_place(make):
    """Garbage is collected wherever it happens to be."""
    wrapper = make()
    wrapper.ensure_connection()
    gevent.get_hub().threadpool.apply(wrapper.__del__)
    wait_until(lambda: wrapper.pool.stats().in_use == 0, "given back")
    wrapper.connection = None
    assert value(wrapper, "SELECT 1") == 1


def test_what_was_opened_for_another_greenlet_lives_on(make):
    """The wrapper is shared; the one that connected it may go."""
    wrapper = make()
    wrapper.inc_thread_sharing()
    gevent.spawn(wrapper.ensure_connection).join()
    gevent.idle()
    assert value(wrapper, "SELECT 1") == 1
    # And the greenlet that closes it need not have opened it.
    gevent.spawn(wrapper.close).join()
    assert wrapper.pool.stats().in_use == 0


def test_a_wrapper_whose_maker_has_ended_keeps_its_connection(make):
    """It is not lent in the name of a greenlet that is dead already."""
    maker = gevent.spawn(make)
    wrapper = maker.get()
    wrapper.inc_thread_sharing()
    gevent.idle()
    wrapper.ensure_connection()
    gevent.idle()
    assert wrapper.pool.stats().in_use == 1
    wrapper.close()


def test_what_is_left_by_the_dead_is_whose_it_is(migrated, make):
    """A wrapper whose greenlet has ended is its present user's."""
    wrapper = make()
    made = []
    gevent.spawn(lambda: made.append(wrapper.copy())).join()
    (orphan,) = made
    orphan.inc_thread_sharing()
    assert value(orphan, "SELECT 1") == 1
    orphan.close()


def test_a_connection_closed_past_django_is_never_lent_again(make):
    """The wrapper still refers to it: two would speak on it."""
    wrapper = make()
    wrapper.ensure_connection()
    lent = wrapper.connection
    lent.close()
    assert wrapper.pool.stats().in_use == 0
    assert not wrapper.is_usable()
    other = wrapper.copy()
    other.ensure_connection()
    assert other.connection is not lent
    wrapper.close()
    assert wrapper.pool.stats().in_use == 1
    other.close()


def test_a_connection_may_outlive_its_pool(make, monkeypatch):
    """Closing it then is no error."""
    monkeypatch.setattr(room, "PATIENCE", 0.0)
    wrapper = make()
    wrapper.ensure_connection()
    lent, pool = wrapper.connection, wrapper.pool
    end = lent.lender
    # The greenlet that closes the pool may go on with its own connection.
    gevent.spawn(wrapper.close_pool).join()
    assert pool.closed and not lent.open
    with pytest.raises(InterfaceError):
        value(wrapper, "SELECT 1")
    wrapper.close()
    assert wrapper.pool is not pool
    del pool
    gc.collect()
    end.release(lent)


def test_who_waits_for_a_closed_pool_is_refused(make):
    """With Django's error, too."""
    wrapper = make({"max_connections": 1})
    wrapper.ensure_connection()
    refused = []

    def wait() -> None:
        with pytest.raises(OperationalError) as caught:
            wrapper.copy().ensure_connection()
        refused.append(caught.value.__cause__)

    waiter = gevent.spawn(wait)
    gevent.idle()
    closing = gevent.spawn(wrapper.close_pool)
    waiter.join()
    assert isinstance(refused[0], PoolClosedError)
    wrapper.close()
    closing.join()


# Is it still good?


def test_a_failed_health_check_costs_the_connection(make, monkeypatch):
    """It is not lent again, not even to the same wrapper."""
    wrapper = make(CONN_HEALTH_CHECKS=True)
    wrapper.ensure_connection()
    first = wrapper.connection
    # Between two requests only a caller that asks for it keeps it.
    wrapper.close_at = None
    wrapper.close_if_unusable_or_obsolete()
    assert wrapper.connection is first
    with monkeypatch.context() as patch:
        patch.setattr(wrapper, "is_usable", lambda: False)
        assert value(wrapper, "SELECT 1") == 1
        assert wrapper.connection is not first
    wrapper.close_at = None
    wrapper.close_if_unusable_or_obsolete()
    kept = wrapper.connection
    assert not wrapper.health_check_done
    assert value(wrapper, "SELECT 1") == 1
    assert wrapper.connection is kept


def test_the_health_is_checked_once_in_a_request(make, monkeypatch):
    """Before its first query, and not before each."""
    wrapper = make(CONN_HEALTH_CHECKS=True)
    wrapper.ensure_connection()
    wrapper.close_at = None
    wrapper.close_if_unusable_or_obsolete()
    checks = []
    monkeypatch.setattr(wrapper, "is_usable", lambda: checks.append(1) or True)  # type: ignore[func-returns-value]
    for _ in range(3):
        assert value(wrapper, "SELECT 1") == 1
    assert len(checks) == 1
    wrapper.close()


def test_an_idle_connection_that_was_killed_is_not_lent(make, migrated):
    """It is seen by its socket, without a round trip."""
    wrapper = make()
    wrapper.ensure_connection()
    lent = wrapper.connection
    thread_id = lent.thread_id()
    wrapper.close()
    migrated.ask(f"KILL CONNECTION {thread_id}")
    wait_until(lambda: thread_id not in migrated.connection_ids(), "killed")
    assert value(wrapper, "SELECT CONNECTION_ID()") != thread_id


def test_a_lost_connection_is_not_usable(make, migrated):
    """Nor is a wrapper that has no connection yet."""
    wrapper = make()
    assert not wrapper.is_usable()
    wrapper.ensure_connection()
    assert wrapper.is_usable()
    migrated.ask(f"KILL CONNECTION {wrapper.connection.thread_id()}")
    assert not wrapper.is_usable()
    wrapper.close()
    assert value(wrapper, "SELECT 1") == 1


def test_an_error_costs_no_ping(accounts, trips):
    """The pool finds out by itself whether the connection is in step."""
    with Request():
        with pytest.raises(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELECT nonsense")
        assert connection.errors_occurred
        trips.clear()
    settle(connection.pool)
    assert len(trips) == 1


def test_a_closed_cursor_says_so(make):
    """As PyMySQL's does."""
    wrapper = make()
    cursor = wrapper.cursor()
    cursor.close()
    with pytest.raises(DatabaseError, match="Cursor closed"):
        cursor.execute("SELECT 1")


# What Django asks once


def test_the_server_is_asked_once_what_it_is(make, trips):
    """Each wrapper of Django's own asks again, and each greenlet has one."""
    wrapper = make()
    assert wrapper.mysql_is_mariadb
    other = wrapper.copy()
    trips.clear()
    assert other.mysql_version == wrapper.mysql_version
    assert other.mysql_server_data is not wrapper.mysql_server_data
    assert trips == []


def test_sql_auto_is_null_is_off(make, migrated):
    """Where a server has it on, each borrower turns it off."""
    migrated.ask("SET GLOBAL sql_auto_is_null = 1")
    try:
        wrapper = make()
        for _ in range(2):
            assert value(wrapper, "SELECT @@sql_auto_is_null") == 0
            wrapper.close()
    finally:
        migrated.ask("SET GLOBAL sql_auto_is_null = 0")


def test_a_session_can_be_set_up_again_by_hand(make, trips):
    """Who calls for it gets all of it."""
    wrapper = make()
    wrapper.ensure_connection()
    trips.clear()
    wrapper.init_connection_state()
    assert any(b"ISOLATION LEVEL" in trip for trip in trips)


# Without a pool


@pytest.mark.parametrize("pool", [None, False])
def test_without_the_option_it_is_djangos_own(make, pool):
    """A connection of PyMySQL's, closed when it is closed."""
    wrapper = make(pool)
    assert wrapper.pool is None
    assert wrapper.mysql_is_mariadb
    assert value(wrapper, "SELECT 1") == 1
    plain = wrapper.connection
    assert type(plain) is pymysql.Connection
    with transaction_of(wrapper):
        assert value(wrapper, "SELECT @@in_transaction") == 1
    wrapper.close()
    assert not plain.open and wrapper.connection is None
    wrapper.close_pool()


def transaction_of(wrapper):
    """A transaction of a wrapper that is not one of Django's connections."""

    class Block:
        def __enter__(self):
            wrapper.set_autocommit(False)
            value(wrapper, "SELECT COUNT(*) FROM project_account")

        def __exit__(self, *error):
            wrapper.rollback()
            wrapper.set_autocommit(True)

    return Block()


def test_without_monkey_patching_there_is_no_pool(make, monkeypatch):
    """As under ``manage.py``, where nothing but one thread asks."""
    monkeypatch.setattr(monkey, "is_object_patched", lambda *name: False)
    warn_again(monkeypatch)
    wrapper = make()
    with pytest.warns(NotPatchedWarning, match="Django's own backend"):
        assert wrapper.pool is None
    assert value(wrapper, "SELECT 1") == 1
    assert type(wrapper.connection) is pymysql.Connection
    with pytest.raises(NotPatchedError, match="geventpool.django.mysql would block"):
        make({"unpatched": "error"}).ensure_connection()


def test_two_that_come_at_once_share_one_pool(make):
    """Though making it switches."""
    wrapper = make({"initial_connections": 2})
    copies = [wrapper.copy() for _ in range(5)]
    pools = [gevent.spawn(lambda each=each: each.pool) for each in copies]  # type: ignore[call-overload]
    gevent.joinall(pools, raise_error=True)
    assert len({id(each.value) for each in pools}) == 1
    assert wrapper.pool.stats().idle == 2


def test_other_settings_are_another_pool(make):
    """They are compared by value; and one that is closed is not the others' end."""
    wrapper = make()
    first = wrapper.pool
    other = wrapper.copy()
    other.settings_dict["OPTIONS"]["pool"] = {"max_connections": 2}
    second = other.pool
    assert second is not first and other.pool is second
    # A change in place is a change as well.
    second_settings = other.settings_dict["OPTIONS"]["pool"]
    second_settings["max_connections"] = 3
    third = other.pool
    assert third is not second
    other.close_pool()
    second_settings["max_connections"] = 2
    for name in "NAME", "USER", "PASSWORD", "HOST", "PORT":
        elsewhere = wrapper.copy()
        elsewhere.settings_dict[name] = "3307" if name == "PORT" else "elsewhere"
        assert elsewhere.pool is not first
        elsewhere.close_pool()
    assert wrapper.pool is first
    other.close_pool()
    assert second.closed and wrapper.pool is first and not first.closed
    other.close_pool()


# Test databases


def test_a_test_database_has_a_pool_of_its_own(make, migrated):
    """Nothing stays connected to the one or the other."""
    # Other options than those of the connection that it replaces.
    wrapper = make({"max_connections": 3})
    wrapper.alias = alias = connections["default"].alias
    wrapper.ensure_connection()
    real = wrapper.pool
    was = wrapper.settings_dict["NAME"]
    previous, connections[alias] = connections[alias], wrapper
    try:
        name = wrapper.creation.create_test_db(verbosity=0, autoclobber=True)
        assert real.closed
        assert value(wrapper, "SELECT DATABASE()") == name == f"test_{was}"
        tested = wrapper.pool
        assert Account.objects.count() == 0
        wrapper.creation.destroy_test_db(was, verbosity=0)
        assert tested.closed
        assert value(wrapper, "SELECT DATABASE()") == was
    finally:
        wrapper.close()
        wrapper.close_pool()
        connections[alias] = previous
    databases = [row[0] for row in migrated.ask("SHOW DATABASES")]
    assert f"test_{was}" not in databases


def test_management_commands_work(accounts, tmp_path, capsys):
    """Those that read and write data, and those that look at the schema."""
    call_command("check", databases=["default"])
    call_command("inspectdb", "project_account")
    assert "balance = models.IntegerField()" in capsys.readouterr().out
    saved = tmp_path / "saved.json"
    call_command("dumpdata", "project", output=str(saved), verbosity=0)
    call_command("flush", interactive=False, verbosity=0)
    assert Account.objects.count() == 0
    call_command("loaddata", str(saved), verbosity=0)
    assert Account.objects.count() == 10
    request_finished.send(None)


def test_a_killed_request_leaves_its_place_to_others(accounts):
    """In the middle of a query, whose connection is lost with it."""
    asked = Event()

    def ask() -> None:
        with connection.cursor() as cursor:
            asked.set()
            cursor.execute("SELECT SLEEP(60)")

    victim = gevent.spawn(ask)
    asked.wait()
    gevent.idle()
    victim.kill()
    wait_until(lambda: connection.pool.stats().in_use == 0, "its place is free")


@pytest.mark.parametrize("cancel", [True, False])
def test_an_interrupted_query_is_ended_at_the_server(make, migrated, cancel):
    """A slow database must not be buried by requests that have given up."""
    wrapper = make(pool={"max_connections": 1} | ({} if cancel else {"cancel": False}))
    wrapper.inc_thread_sharing()
    slow = f"SELECT SLEEP(60) + {cancel:d}"

    def ask() -> None:
        try:
            with wrapper.cursor() as cursor:
                cursor.execute(slow)
        finally:
            # As at the end of a request.
            wrapper.close()

    victim = gevent.spawn(ask)
    wait_until(lambda: is_running(migrated, slow), "it runs")
    victim.kill()
    wait_until(lambda: wrapper.pool.size == wrapper.pool.stats().idle, "it is free")
    assert is_running(migrated, slow) is not cancel
    assert wrapper.pool.stats().cancelled == cancel
    migrated.hang_up()
