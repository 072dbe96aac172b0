"""Real connections that are closed, given back, forked or listened to at any moment.

The operations are those of the table of interruptions. Each is run again and again,
with something done to its pool at its first, second, third... switch. Afterwards every
place must be there, and the next borrower must get its own reply.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
import redis
from pymysql import err
from sqlalchemy import exc

from geventpool import PoolError, PoolListener
from geventpool.mysql import ConnectionInUseError
from geventpool.testing import (
    PLACES,
    disturb_everywhere,
    exhaust_stack_everywhere,
    fork_everywhere,
    in_finaliser,
    in_greenlet,
    in_hub,
    tell_everywhere,
)
from tests.conftest import HubError
from tests.deeds import close_now, drain, drop, give_back
from tests.failures.scenes import ROWS, Scene, Site
from tests.failures.scenes.mysql import mysql_scene, transfer
from tests.failures.scenes.redis import redis_scene
from tests.failures.scenes.sqlalchemy import engine_scene

pytestmark = [
    # A dial of redis-py that is killed leaves its socket to the collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    # The engine reports the connections that are closed while it uses them.
    pytest.mark.usefixtures("_silent_engine"),
]

#: A lost connection, in the words of each driver; and refusals of the pool.
LOST = (PoolError, redis.ConnectionError, redis.WatchError, OSError)
LOST_MYSQL = (
    *(PoolError, err.OperationalError, err.InterfaceError, ConnectionInUseError),
    # Of a cursor whose loan has ended.
    err.ProgrammingError,
)
LOST_ENGINE = (PoolError, exc.DBAPIError, err.InterfaceError)

#: A reply that is there already is read without a switch.
TRIES = 2

Begin = Callable[..., Scene]


def _row(name: str) -> Begin:
    return ROWS[name].begin


def _connected_engine(site: Site) -> Scene:
    return engine_scene(site, is_connected=True)


#: What is disturbed, and the errors that its borrower may get.
SCENES: dict[str, tuple[Begin, tuple[type[BaseException], ...]]] = {
    **{
        name: (_row(name), LOST)
        for name in (
            *("a_command", "a_raw_connection", "a_transaction", "a_pipeline"),
            *("a_subscription", "a_blocking_command", "a_client_with_one_connection"),
            *("authenticating_anew", "pinged_and_authenticated_by_the_pool"),
            *("a_shared_command", "a_shared_command_that_waits_for_room"),
            *("a_shared_pipeline_that_waits_for_room", "a_master_named_by_sentinel"),
            "waiting_for_replicas_of_shared_writes",
        )
    },
    **{
        name: (_row(name), LOST_MYSQL)
        for name in (
            *("a_query", "a_loan_that_is_checked", "a_transfer", "a_cursor"),
            *("rows_that_stream", "a_file_that_is_loaded"),
            *("reset_and_pinged_by_the_pool", "a_loan_while_a_lock_is_released"),
        )
    },
    "an_engine": (_row("an_engine"), LOST_ENGINE),
}


#: The scenes for every deed in every place: the loans that are easiest to confuse.
MANIFOLD = (
    *("a_transaction", "waiting_for_replicas_of_shared_writes", "a_transfer"),
    "an_engine",
)


@pytest.fixture()
def _silent_engine(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "sqlalchemy.pool")


class Runs:
    """The runs of one scene: what begins each, and what must be true after each."""

    def __init__(self, site: Site, begin: Begin) -> None:
        self._site = site
        self._begin = begin
        self._scene: Scene | None = None

    def __call__(self, *args: Any) -> Any:
        """Begin a run; return its work and its pools."""
        self._scene = scene = self._begin(self._site, *args)
        return scene.work, scene.pools

    def afterwards(self) -> None:
        """Check a pool that is still open."""
        assert self._scene is not None
        if not any(pool.closed for pool in self._scene.pools):
            self._scene.afterwards()


def deeds() -> Iterator[Any]:
    """What is done to which scene, and where. A thread may only end loans."""
    for name in SCENES:
        yield name, close_now, in_hub
        yield name, drop, in_greenlet
    for name in MANIFOLD:
        for place in in_greenlet, in_finaliser:
            yield name, close_now, place
        for place in in_hub, in_finaliser:
            yield name, drain, place
        for place in PLACES:  # type: ignore[assignment]
            yield name, give_back, place
            yield name, drop, place


@pytest.mark.parametrize(("name", "act", "place"), list(dict.fromkeys(deeds())))
def test_a_pool_in_use_may_be_changed_at_any_moment(
    name: str, act: Any, place: Any, site: Site, hub_errors: list[HubError]
) -> None:
    """A borrower gets the driver's error at most, and others are served."""
    begin, lost = SCENES[name]
    runs = Runs(site, begin)
    points = disturb_everywhere(
        runs, act, place=place, expected=lost, afterwards=runs.afterwards, tries=TRIES
    )
    assert points >= 1
    # Some scenes have further greenlets, which borrow too.
    assert all(isinstance(each.error, lost) for each in hub_errors), hub_errors
    hub_errors.clear()


#: Connected before: SQLAlchemy connects in the borrower, which the child copies.
FORKED = {
    **{name: scene for name, scene in SCENES.items() if name != "an_engine"},
    "a_connected_engine": (_connected_engine, LOST_ENGINE),
}


@pytest.mark.parametrize("name", FORKED)
def test_a_process_with_loans_may_fork_at_any_moment(name: str, site: Site) -> None:
    """No copy of a greenlet takes the parent's replies, and no watcher ends it."""
    begin, lost = FORKED[name]
    runs = Runs(site, begin)
    points = fork_everywhere(
        runs, in_child=lost, afterwards=runs.afterwards, tries=TRIES
    )
    assert points >= 1


@pytest.mark.parametrize("name", [*MANIFOLD, "a_shared_command", "rows_that_stream"])
def test_the_stack_of_a_borrower_may_be_full_at_any_depth(
    name: str,
    site: Site,
    hub_errors: list[HubError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It costs the borrower the loan, whatever the driver makes of the error."""
    # Finalizers fail there too. pytest's hook for their errors needs some stack itself.
    monkeypatch.setattr(sys, "unraisablehook", id)
    begin, lost = SCENES[name]
    runs = Runs(site, begin)
    points = exhaust_stack_everywhere(
        runs, expected=(RecursionError, *lost), afterwards=runs.afterwards
    )
    assert points >= 5
    hub_errors.clear()


def get(client: Any) -> None:
    assert client.get("mine") == b"M"


def transferring(pool: Any) -> None:
    with pool.connection() as conn:
        transfer(conn)


def _heard_redis(site: Site, listener: PoolListener) -> Scene:
    return redis_scene(get, site, listeners=[listener])


def _heard_shared(site: Site, listener: PoolListener) -> Scene:
    options: Any = {"auto_pipeline": True, "max_connections": 2}
    return redis_scene(get, site, listeners=[listener], **options)


def _heard_mysql(site: Site, listener: PoolListener) -> Scene:
    return mysql_scene(transferring, site, listeners=[listener])


def _heard_engine(site: Site, listener: PoolListener) -> Scene:
    return engine_scene(site, listeners=[listener])


def raise_error() -> None:
    raise ValueError("of a listener")


def raise_exit() -> None:
    raise gevent.GreenletExit


def switch() -> None:
    gevent.sleep(0)


@pytest.mark.parametrize("act", [raise_error, raise_exit, switch])
@pytest.mark.parametrize(
    "begin", [_heard_redis, _heard_shared, _heard_mysql, _heard_engine]
)
def test_a_listener_of_an_adapter_may_do_anything(
    begin: Begin, act: Any, site: Site, hub_errors: list[HubError]
) -> None:
    """It is told when the change is complete, so nothing is lost with it."""
    runs = Runs(site, begin)
    expected = (gevent.GreenletExit, Exception)
    assert tell_everywhere(runs, act, expected=expected) >= 2
    hub_errors.clear()
