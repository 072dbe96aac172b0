"""What does a Django view cost with pooled connections, and how many does it need?

One view with one query, called through Django's WSGI handler in greenlets, as a server
on gevent calls it. First 10 requests at a time, beside Django's own backend on PyMySQL:
with persistent connections, of which each greenlet keeps one, so that nothing is opened
or given back; and with a new connection for each request. Then 200 requests at a time,
at a server that accepts 60 clients. A request that is refused is sent again.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any
from wsgiref.util import setup_testing_defaults

from django import setup
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.http import JsonResponse
from django.test.utils import override_settings
from django.urls import path

from benchmarks.crowd import CONNECTIONS, Contestant, Turn, compare
from benchmarks.report import Column, Report
from benchmarks.rounds import Scale, Spread
from tests.servers import MariaDBServer

OURS = "geventpool"
OURS_ALWAYS = "geventpool, reset='session'"
PERSISTENT = "stock, CONN_MAX_AGE=None"
FRESH = "stock, CONN_MAX_AGE=0"

#: Clients that the server accepts. Django's own backend needs one for each request.
ADMITTED = 60


class RefusedError(Exception):
    """The view was answered with 500, because the server is full."""


def run(scale: Scale) -> Report:
    """Make both tables. May switch."""
    report = Report("django", "what does a Django view cost, and need, with a pool?")
    with MariaDBServer(max_connections=ADMITTED) as running, _project(running) as ask:
        _add_ten(report, ask, scale)
        _add_many(report, ask, running, scale)
    return report


# The project


@contextmanager
def _project(server: Any) -> Iterator[Callable[[str], None]]:
    """Yield what calls the view with the name of a database.

    The settings of a Django that others of this process use stay as they were.
    """
    if not settings.configured:
        settings.configure(SECRET_KEY="known to everybody", USE_TZ=True)
        setup()
    # Django finds a backend by its name. Its own would need MySQLdb.
    stock = import_module("geventpool.django.mysql.upstream")
    sys.modules["benchmarks.stock_mysql.base"] = stock.base
    databases = _databases(server)
    complete = connections.configure_settings({"default": {}, **databases})
    connections.settings.update({name: complete[name] for name in databases})
    urls = type("Urls", (), {"urlpatterns": [path("<path:name>", _view)]})
    log = logging.getLogger("django.request")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=[], ALLOWED_HOSTS=["*"]):
            yield partial(_call, WSGIHandler())
    finally:
        log.setLevel(level)
        _end(databases)
        for name in databases:
            del connections[name]
            del connections.settings[name]


def _end(names: Iterable[str]) -> None:
    """Close connections and pools."""
    for name in names:
        connection = connections[name]
        connection.close()
        if hasattr(connection, "close_pool"):
            connection.close_pool()


def _databases(server: Any) -> dict[str, dict[str, Any]]:
    where = {key.upper(): getattr(server, key) for key in ("host", "port", "user")}
    where.update(NAME=server.database, PASSWORD=server.password)

    def database(engine: str, age: int | None, **options: Any) -> dict[str, Any]:
        # PyMySQL would load all trusted certificates at each connect.
        options = {"ssl_disabled": True, **options}
        return {**where, "ENGINE": engine, "CONN_MAX_AGE": age, "OPTIONS": options}

    pool = {"max_connections": CONNECTIONS}
    ours, stock = "geventpool.django.mysql", "benchmarks.stock_mysql"
    return {
        OURS: database(ours, 0, pool=pool),
        OURS_ALWAYS: database(ours, 0, pool={**pool, "reset": "session"}),
        PERSISTENT: database(stock, None),
        FRESH: database(stock, 0),
    }


def _view(request: Any, name: str) -> Any:
    with connections[name].cursor() as cursor:
        cursor.execute("SELECT 'an item'")
        return JsonResponse({"name": cursor.fetchone()[0]})


def _call(handler: Any, name: str) -> None:
    statuses: list[str] = []
    environ: dict[str, Any] = {"PATH_INFO": f"/{name}"}
    setup_testing_defaults(environ)
    response = handler(environ, lambda status, *rest: statuses.append(status))
    for _ in response:
        pass
    response.close()
    if not statuses[0].startswith("200"):
        raise RefusedError(statuses[0])


# 10 and 200 at a time


def _add_ten(report: Report, ask: Callable[[str], None], scale: Scale) -> None:
    names = (OURS, OURS_ALWAYS, PERSISTENT, FRESH)
    contestants = {
        name: Contestant([partial(ask, name)], at_end=connections.close_all)
        for name in names
    }
    more: Any = {"rivals": [FRESH], "floor": PERSISTENT, "first": "backend"}
    more["targets"] = [(PERSISTENT, 1.0)]
    compare(report, scale, "a view with one query", contestants, **more)


def _add_many(
    report: Report, ask: Callable[[str], None], server: Any, scale: Scale
) -> None:
    # More than the server could accept, even at the smallest scale.
    greenlets = max(scale.crowd, 2 * ADMITTED)

    def counted(turn: Turn) -> Turn:
        rows = server.ask("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")
        begin()
        # One of them is the one that asks.
        return replace(turn, connections=int(rows[0][1]) - 1)

    def begin() -> None:
        _end((OURS, OURS_ALWAYS))
        server.ask("FLUSH STATUS")

    begin()
    contestants = {
        name: Contestant(
            [partial(ask, name)], (RefusedError,), connections.close_all, warms_up=False
        )
        for name in (OURS, PERSISTENT)
    }
    what = f"a server that accepts {ADMITTED} clients"
    columns = [
        Column("connections", lambda turn: turn.connections, ""),
        Column("refused", lambda turn: turn.refused, ""),
    ]
    crowd = (greenlets, counted, columns)
    table = compare(report, scale, what, contestants, *crowd, first="backend")
    table.notes += [
        "refused: answered with 500, because the server is full",
        "connections: the most that the server counted",
    ]
    samples = table.series[OURS].samples
    if samples:
        most = Spread.of([float(max(each.connections for each in samples))])
        refused = Spread.of([float(sum(each.refused for each in samples))])
        report.target(f"connections of {OURS} at the server", most, CONNECTIONS)
        report.target(f"requests {OURS} refused", refused, 0.0)
