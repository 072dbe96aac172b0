"""Engines of SQLAlchemy, with our pool and with its own."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any, ClassVar

from geventpool.sqlalchemy import GreenletPool
from tests.failures.contestants import PATIENCE, QUESTION, Contestant, Ours, timed
from tests.failures.sites import LIMIT, Site


class Engine(Contestant):
    """An engine; its pool is SQLAlchemy's ``QueuePool`` unless told otherwise."""

    site = "mysql"
    connects_in_borrower = True

    #: Options of ``create_engine`` beside the common ones.
    pool_options: ClassVar[dict[str, Any]] = {}

    def __init__(self, site: Site[Any]) -> None:
        sqlalchemy = import_module("sqlalchemy")
        # It logs a traceback whenever a connection breaks while it is given back.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
        options = timed(site.options)
        names = ("user", "password", "host", "port", "database")
        url = sqlalchemy.engine.URL.create(
            "mysql+pymysql", *(options.pop(name) for name in names)
        )
        self._engine = sqlalchemy.create_engine(
            url,
            pool_size=LIMIT,
            max_overflow=0,
            pool_timeout=PATIENCE,
            isolation_level="AUTOCOMMIT",
            connect_args=options,
            **self.pool_options,
        )
        self.pool = self._engine.pool
        self._refusal = sqlalchemy.exc.TimeoutError

    def take(self) -> Any:
        return self._engine.connect()

    def talk(self, conn: Any, tag: str) -> str:
        return str(conn.exec_driver_sql(QUESTION, (tag,)).scalar())

    def give_back(self, conn: Any) -> None:
        conn.close()

    def break_off(self, conn: Any) -> None:
        # The engine itself has judged the error; what is broken it has invalidated.
        conn.close()

    def is_refusal(self, error: Exception) -> bool:
        return isinstance(error, self._refusal)

    def close(self) -> None:
        self._engine.dispose()


class OurEngine(Ours, Engine):
    """An engine with ``geventpool.sqlalchemy``."""

    title = "geventpool .sqlalchemy"
    name = "sqlalchemy"
    documented = dict.fromkeys(
        (
            "pymysql.err.OperationalError 2003",
            "pymysql.err.OperationalError 2006",
            "pymysql.err.OperationalError 2013",
            "pymysql.err.OperationalError 1927",
            "pymysql.err.OperationalError 1053",
            "pymysql.err.OperationalError 1040",
            "pymysql.err.InterfaceError 0",
            "pymysql.err.InternalError",
            # the reply to a login has lost its header
            "IndexError",
        ),
        "raised by the driver or a listener",
    )

    pool_options = {"poolclass": GreenletPool, "pool_use_lifo": True}

    def __init__(self, site: Site[Any]) -> None:
        super().__init__(site)
        self.core = self.pool.core

    def close(self) -> None:
        super().close()
        self.core.close(PATIENCE)
