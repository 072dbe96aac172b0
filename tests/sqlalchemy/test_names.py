"""An engine's pool without a name is called by its server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine

from geventpool.sqlalchemy import GreenletPool
from geventpool.sqlalchemy.names import name_of_engine


def core_of(url: str, **options: Any) -> Any:
    engine = create_engine(url, poolclass=GreenletPool, **options)
    return engine.pool.core  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("mysql+pymysql://me:secret@db1:3307/shop", "mysql db1:3307/shop"),
        ("mysql+pymysql://me@db1", "mysql db1"),
        (
            "mysql+pymysql://me@localhost/shop?unix_socket=/run/db",
            "mysql /run/db/shop",
        ),
    ],
)
def test_the_name_is_the_server_and_the_database(url: str, name: str) -> None:
    """The same after a restart, for metrics; and without the login."""
    assert core_of(url).name == name


def test_a_given_name_stays() -> None:
    """As SQLAlchemy calls it in its log."""
    core = core_of("mysql+pymysql://db1/shop", pool_logging_name="orders")
    assert core.name == "orders"


def test_a_pool_that_is_made_anew_is_called_as_before() -> None:
    """``engine.dispose()`` makes one; its metrics must go on."""
    for url in ("mysql+pymysql://db1/shop", "sqlite://"):
        engine = create_engine(url, poolclass=GreenletPool)
        before = engine.pool.core.name  # type: ignore[attr-defined]
        engine.dispose()
        assert engine.pool.core.name == before  # type: ignore[attr-defined]


def connect(cparams: Any, dialect: Any) -> Callable[[], Any]:
    return lambda: (cparams, dialect)


@pytest.mark.parametrize(
    "creator",
    [
        None,
        print,
        lambda: None,
        connect(None, None),
        connect({}, create_engine("sqlite://").dialect),
    ],
)
def test_a_creator_that_tells_no_server_gives_no_name(creator: Any) -> None:
    """The pool is numbered then, as others are."""
    assert name_of_engine(creator) is None
