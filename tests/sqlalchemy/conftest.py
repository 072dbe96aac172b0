"""Pools and engines for the tests of the SQLAlchemy adapter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from sqlalchemy import Engine, create_engine

from geventpool.sqlalchemy import GreenletPool
from geventpool.testing import check
from tests.mysql.conftest import (  # noqa: F401  (fixtures)
    own_server,
    proxy,
    small_server,
    table,
)
from tests.mysql.proxy import Proxy
from tests.servers import MariaDBServer

MakePool = Callable[..., GreenletPool]
MakeEngine = Callable[..., Engine]


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    # Other tests may have silenced it: it is loud when connections break.
    caplog.set_level(logging.ERROR, "sqlalchemy.pool")


class Connection:
    """A DB-API connection that notes what it is told; what may switch does."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.told: list[str] = []
        #: raised by the next rollback
        self.failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"<connection {self.number}>"

    def cursor(self) -> Any:
        raise NotImplementedError

    def _tell(self, word: str) -> None:
        gevent.sleep(0)
        self.told.append(word)

    def commit(self) -> None:
        self._tell("commit")

    def rollback(self) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        self._tell("rollback")

    def close(self) -> None:
        self._tell("close")

    @property
    def is_open(self) -> bool:
        return "close" not in self.told


class Database:
    """Makes such connections, and can tell how many are open."""

    def __init__(self) -> None:
        self.opened: list[Connection] = []
        self.opening = 0
        self.peak = 0
        #: raised instead of connecting, as long as it is set
        self.failure: Exception | None = None

    def __call__(self) -> Connection:
        self.opening += 1
        self.peak = max(self.peak, self.opening + len(self.now_open))
        try:
            gevent.sleep(0)
            if self.failure is not None:
                raise self.failure
        finally:
            self.opening -= 1
        conn = Connection(len(self.opened) + 1)
        self.opened.append(conn)
        return conn

    @property
    def now_open(self) -> list[Connection]:
        return [conn for conn in self.opened if conn.is_open]


@pytest.fixture()
def database() -> Database:
    """Where the connections of the scripted pools come from."""
    return Database()


@pytest.fixture()
def make_pool(database: Database) -> Iterator[MakePool]:
    """Makes pools of scripted connections; each must be whole at the end."""
    made: list[GreenletPool] = []

    def make(creator: Any = database, **options: Any) -> GreenletPool:
        options = {"pool_size": 1, "max_overflow": 0, "timeout": 5, **options}
        made.append(GreenletPool(creator, **options))
        return made[-1]

    yield make
    for pool in made:
        gevent.idle()
        check(pool.core)
        pool.core.close(timeout=0)


@pytest.fixture()
def mysql_url(mariadb_server: MariaDBServer) -> str:
    """The common MariaDB server."""
    account = mariadb_server.client_options
    place = "{user}:{password}@{host}:{port}/{database}".format(**account)
    return f"mysql+pymysql://{place}"


@pytest.fixture()
def make_engine(mysql_url: str) -> Iterator[MakeEngine]:
    """Makes engines, on MariaDB by default; each pool must be whole at the end."""
    made: list[Engine] = []

    def make(url: str = mysql_url, **options: Any) -> Engine:
        options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5, **options}
        made.append(create_engine(url, poolclass=GreenletPool, **options))
        return made[-1]

    yield make
    for engine in made:
        gevent.idle()
        pool: Any = engine.pool
        check(pool.core)
        assert pool.checkedout() == 0
        engine.dispose()
        pool.core.close(timeout=5)


def core(engine: Engine) -> Any:
    """The core pool under an engine."""
    pool: Any = engine.pool
    return pool.core


def through(proxy: Proxy) -> str:  # noqa: F811
    """The URL of a MariaDB behind a proxy."""
    account = {**proxy.server.client_options, "host": proxy.host, "port": proxy.port}
    place = "{user}:{password}@{host}:{port}/{database}".format(**account)
    return f"mysql+pymysql://{place}"
