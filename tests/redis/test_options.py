"""The options of the pool: the core's, and what redis-py takes beside them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import redis.connection
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection

from geventpool import Admission
from geventpool.options import names
from geventpool.redis import ConnectionPool
from geventpool.redis.keywords import RedisKeywords, RedisPyKeywords
from geventpool.redis.options import POOL_OPTIONS
from tests import parts


@pytest.mark.parametrize(
    "kind",
    [
        redis.connection.AbstractConnection,
        Connection,
        SSLConnection,
        UnixDomainSocketConnection,
        redis.connection.ConnectionPool,
    ],
)
def test_type_checkers_know_all_keywords_of_redis_py(kind):
    """A program that type-checks with redis-py's pool does so with ours."""
    taken = set(inspect.signature(kind.__init__).parameters)
    own = {"self", "kwargs", "connection_kwargs", "connection_class", "max_connections"}
    assert taken - own <= set(RedisPyKeywords.__annotations__)


def test_type_checkers_know_all_options_of_the_pool():
    """Nothing is an option at run time and an error for a type checker."""
    rest = RedisKeywords.__annotations__.keys() - RedisPyKeywords.__annotations__.keys()
    assert rest == POOL_OPTIONS > names() - {"max_connections"}


def test_the_signature_shows_the_options():
    """``help(ConnectionPool)`` answers what can be given."""
    shown = inspect.signature(ConnectionPool).parameters
    assert set(shown) >= POOL_OPTIONS
    assert shown["timeout"].default == 30 and shown["max_in_flight"].default == 1000
    assert list(shown.values())[-1].kind is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize("kind", [Connection, SSLConnection])
@pytest.mark.parametrize(
    ("name", "meant"),
    [("max_idel", "max_idle"), ("max_conections", "max_connections")],
)
def test_a_misspelt_option_is_refused_at_once(kind, name, meant):
    """redis-py would say so when the first command needs a connection."""
    message = rf"^ConnectionPool\(\) has no option '{name}'; did you mean '{meant}'\?$"
    options: dict[str, Any] = {name: 5}
    with pytest.raises(TypeError, match=message):
        ConnectionPool(kind, **options)


@pytest.mark.parametrize("value", [None, 1, "redis.Connection"])
def test_a_connection_class_that_cannot_be_called_is_refused(value):
    """It would fail with an AttributeError about the inside of the pool."""
    with pytest.raises(TypeError, match=f"connection_class .* not {value!r}"):
        ConnectionPool(connection_class=value)


def test_a_keyword_of_another_class_is_its_own_affair():
    """Only the class knows what it takes."""

    class Own(Connection):
        def __init__(self, max_idel=0, **kwargs):
            self.max_idel = max_idel
            super().__init__(**kwargs)

    pool = ConnectionPool(Own, max_idel=5)  # type: ignore[call-arg]
    assert pool.make_connection().max_idel == 5


def test_a_keyword_of_redis_py_is_none_of_the_pool():
    """However near it is to an option of the pool."""
    pool = ConnectionPool(socket_timeout=3, retry_on_timeout=True)
    assert pool.connection_kwargs["socket_timeout"] == 3


def test_a_keyword_that_is_near_to_an_option_is_left_to_redis_py(monkeypatch):
    """A later version may give its connections one."""

    def init(self, max_idel=0, **kwargs):
        original(self, **kwargs)

    original = Connection.__init__
    monkeypatch.setattr(Connection, "__init__", init)
    assert ConnectionPool(max_idel=5).connection_kwargs["max_idel"] == 5  # type: ignore[call-arg]


def test_a_url_can_turn_admission_on():
    """True stands for the default policy."""
    pool = ConnectionPool.from_url("redis://127.0.0.1:1/0?admission=true")
    assert parts.option(pool.core, "admission") == Admission()
