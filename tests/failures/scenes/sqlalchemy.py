"""The SQLAlchemy adapter."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import gevent
from pymysql import err
from sqlalchemy import create_engine, event, text

from geventpool.sqlalchemy import GreenletPool
from geventpool.testing import check
from tests.failures.scenes.table import Scene, Site, covers


@covers(
    *("sqlalchemy.pool.GreenletPool.connect", "sqlalchemy.pool.GreenletPool.dispose"),
    *("extension.Extension.forget_all", "sqlalchemy.records.Record.checkin"),
    *("sqlalchemy.records.Fairy.commit", "sqlalchemy.records.Fairy.rollback"),
    "sqlalchemy.record_pool.RecordConnector.close",
    *("sqlalchemy.outages.ConnectGate.connect", "_core.teardown.Teardown.close_idle"),
    "_core.lifecycle.Lifecycle.forget_all",
)
def an_engine(site: Site) -> Scene:
    return engine_scene(site)


@dataclass
class EngineScene(Scene):
    """A scene over an engine."""

    engine: Any = None


def engine_scene(site: Site, is_connected: bool = False, **options: Any) -> EngineScene:
    """A scene over an engine with one connection.

    :param bool is_connected: the connection is open before the scene begins.
    """
    engine = create_engine(
        site.mysql.url,
        poolclass=GreenletPool,
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={"ssl_disabled": True},
        **options,
    )
    pool: Any = engine.pool
    event.listen(engine, "close", lambda *_: gevent.idle())
    event.listen(engine, "checkin", lambda *_: gevent.idle())

    def work() -> None:
        for _ in range(2):
            with engine.begin() as conn:
                conn.execute(text("UPDATE money SET v = v - 1 WHERE i = 1"))
                conn.execute(text("UPDATE money SET v = v + 1 WHERE i = 2"))
        with engine.connect() as conn:
            conn.execute(text("UPDATE money SET v = v - 1 WHERE i = 1"))
            conn.rollback()
        engine.dispose()

    def afterwards() -> None:
        check(pool.core)
        with gevent.Timeout(10, AssertionError("no connection")):
            with engine.connect() as conn:
                assert conn.execute(text("SELECT 'yours'")).scalar() == "yours"
                assert conn.execute(text("SELECT SUM(v) FROM money")).scalar() == 300
        engine.dispose()

    if is_connected:
        engine.connect().close()
    return EngineScene(work, [pool.core], afterwards, engine=engine)


@covers("sqlalchemy.record_pool.RecordPool.acquire_again")
def an_engine_of_a_server_without_room(site: Site) -> Scene:
    scene = engine_scene(site)
    attempts = itertools.count()

    def connect(*args: object) -> None:
        if next(attempts) < 2:
            raise err.OperationalError(1040, "Too many connections")

    def work() -> None:
        with scene.engine.connect() as conn:
            assert conn.execute(text("SELECT 'mine'")).scalar() == "mine"

    event.listen(scene.engine, "do_connect", connect)
    return Scene(work, scene.pools, scene.afterwards)
