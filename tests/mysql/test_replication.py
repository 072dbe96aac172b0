"""Two servers with replication running: the primary, and its successor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from pymysql import err

from geventpool import dialing
from geventpool.mysql import NoServerError
from geventpool.testing import wait_until
from tests.mysql.conftest import rows, value
from tests.pauses import sample
from tests.servers import MariaDBServer


class Pair:
    """A primary with a replica, which may change their roles."""

    def __init__(self, primary: MariaDBServer, replica: MariaDBServer) -> None:
        self.primary = primary
        self.replica = replica
        primary.ask("CREATE USER follower IDENTIFIED BY 'follower'")
        primary.ask("GRANT REPLICATION SLAVE ON *.* TO follower")
        primary.ask("CREATE TABLE geventpool.log (i INT PRIMARY KEY) ENGINE=InnoDB")
        replica.ask("SET GLOBAL read_only=1")
        self.follow(replica, primary)

    @property
    def options(self):
        """For a pool: the account, and both hosts."""
        options = dict(self.primary.client_options)
        del options["host"], options["port"]
        hosts = [(each.host, each.port) for each in (self.primary, self.replica)]
        return {**options, "hosts": hosts, "connect_timeout": 2}

    def follow(self, replica, primary):
        """Let one server replicate the other, from the beginning."""
        replica.ask(
            f"CHANGE MASTER TO master_host='{primary.host}', "
            f"master_port={primary.port}, master_user='follower', "
            "master_password='follower', master_use_gtid=slave_pos"
        )
        replica.ask("START SLAVE")

    def promote(self):
        """The replica becomes the primary, with all that it was sent."""
        self.replica.ask("STOP SLAVE")
        self.replica.ask("RESET SLAVE ALL")
        self.replica.ask("SET GLOBAL read_only=0")
        self.primary, self.replica = self.replica, self.primary

    def wait_for_replica(self):
        """Until the replica has all that the primary has."""
        said = "SELECT COUNT(*) FROM geventpool.log"
        wait_until(
            lambda: self.replica.ask(said) == self.primary.ask(said), "replicated"
        )


@pytest.fixture()
def pair() -> Iterator[Pair]:
    """Two servers, replicating."""
    log: dict[str, Any] = {"log_bin": "bin", "gtid_strict_mode": 1}
    with MariaDBServer(server_id=1, **log) as one:
        with MariaDBServer(server_id=2, **log, log_slave_updates=1) as other:
            made = Pair(one, other)
            wait_until(
                lambda: other.ask("SHOW TABLES FROM geventpool") == [("log",)],
                "replicated",
            )
            yield made


def test_writers_follow_the_primary_to_its_successor(make_pool, pair):
    """It dies, the replica is promoted, writers go on; nobody writes to the old one."""
    pool = make_pool(**pair.options, max_connections=5)
    numbers = iter(range(1_000_000))
    written, failed, done = set(), [], gevent.event.Event()

    def write():
        while not done.is_set():
            number = next(numbers)
            try:
                with pool.connection() as conn:
                    rows(conn, f"INSERT INTO log VALUES ({number})")
            except err.MySQLError as error:
                failed.append(error)
                sample()
            else:
                written.add(number)
                sample(0.001)

    writers = [gevent.spawn(write) for _ in range(5)]
    wait_until(lambda: len(written) > 50, "written before")
    pair.primary.kill()
    wait_until(lambda: bool(failed), "failed")
    pair.promote()
    before = len(written)
    wait_until(lambda: len(written) > before + 50, "written after")
    old = pair.replica
    # It comes back as a server that was told to be a replica now.
    old.options["read_only"] = 1
    old.start()
    said = old.ask("SELECT COUNT(*) FROM geventpool.log")
    pool.drain()
    before = len(written)
    wait_until(lambda: len(written) > before + 50, "written with both up")
    done.set()
    gevent.joinall(writers, raise_error=True)
    assert old.ask("SELECT COUNT(*) FROM geventpool.log") == said
    # What was acknowledged after the promotion is all there.
    assert pair.primary.ask("SELECT MAX(i) FROM geventpool.log")[0][0] == max(written)
    with pool.connection() as conn:
        assert value(conn, "SELECT @@port") == pair.primary.port


def test_writers_leave_a_primary_that_is_demoted(make_pool, pair):
    """A planned switch: both live, and the roles change."""
    pool = make_pool(**pair.options, max_connections=3)
    lent = [pool.acquire() for _ in range(3)]
    for conn in lent:
        assert value(conn, "SELECT @@port") == pair.primary.port
        pool.release(conn)
    wait_until(lambda: len(pool.idle_connections()) == 3, "idle")
    old = pair.primary
    old.ask("SET GLOBAL read_only=1")
    pair.wait_for_replica()
    pair.promote()
    with pytest.raises(err.OperationalError) as refusal:
        with pool.connection() as conn:
            rows(conn, "INSERT INTO log VALUES (1)")
    assert refusal.value.args[0] == 1290
    for number in range(5):
        with pool.connection() as conn:
            rows(conn, f"INSERT INTO log VALUES ({number})")
            assert value(conn, "SELECT @@port") == pair.primary.port
    assert old.ask("SELECT COUNT(*) FROM geventpool.log") == [(0,)]


def test_a_ping_notices_that_the_primary_was_demoted(make_pool, pair):
    """Not even an account that may write anywhere writes to the old one."""
    pool = make_pool(**pair.options, ping_after=0, max_connections=1)
    with pool.connection() as conn:
        assert value(conn, "SELECT @@port") == pair.primary.port
    # One that comes back from its reset is lent to a waiter as it is.
    wait_until(lambda: pool.idle_connections(), "idle")
    pair.primary.ask("SET GLOBAL read_only=1")
    pair.promote()
    with pool.connection() as conn:
        assert value(conn, "SELECT @@port") == pair.primary.port


def test_readers_have_a_pool_of_their_own(make_pool, pair):
    """For replicas; or for any server, at random."""
    with make_pool(**pair.options).connection() as conn:
        rows(conn, "INSERT INTO log VALUES (1), (2)")
    pair.wait_for_replica()
    readers = make_pool(**pair.options, target="replica", host_order="random")
    lent = [readers.acquire() for _ in range(5)]
    for conn in lent:
        assert value(conn, "SELECT @@port") == pair.replica.port
        assert value(conn, "SELECT COUNT(*) FROM log") == 2
    anybody = make_pool(
        **pair.options, target="any", host_order="random", max_connections=30
    )
    lent = [anybody.acquire() for _ in range(30)]
    ports = {value(conn, "SELECT @@port") for conn in lent}
    assert ports == {pair.primary.port, pair.replica.port}


def test_where_there_is_no_primary_everybody_is_heard(make_pool, pair):
    """The error says what each host had to say."""
    pair.primary.ask("SET GLOBAL read_only=1")
    pool = make_pool(**pair.options)
    with pytest.raises(NoServerError) as refusal:
        pool.acquire()
    assert str(refusal.value).count("the server is read-only") == 2
    pair.primary.ask("SET GLOBAL read_only=0")
    pair.replica.kill()
    readers = make_pool(**pair.options, target="replica")
    with pytest.raises(NoServerError) as refusal:
        readers.acquire()
    assert "the server is a primary" in str(refusal.value)
    assert "Connection refused" in str(refusal.value)


def test_a_primary_that_refuses_is_the_one_to_be_heard(make_pool, pair):
    """A wrong password is not hidden behind the other server's being a replica."""
    pool = make_pool(**{**pair.options, "password": "wrong"})
    with pytest.raises(err.OperationalError) as refusal:
        pool.acquire()
    assert refusal.value.args[0] == 1045


def test_a_host_that_failed_is_not_dialled_for_each_connection(
    make_pool, mariadb_server, monkeypatch
):
    """Else each would begin with the whole time limit of a dead host."""
    options = mariadb_server.client_options
    alive = (options.pop("host"), options.pop("port"))
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        dead = bound.getsockname()
    dialled = []
    dial = dialing.dial

    def note(host, port, **more):
        dialled.append(port)
        return dial(host, port, **more)

    monkeypatch.setattr(dialing, "dial", note)
    pool = make_pool(hosts=[dead, alive], **options)
    held = [pool.acquire() for _ in range(3)]
    assert dialled.count(dead[1]) == 1
    for conn in held:
        pool.release(conn)
