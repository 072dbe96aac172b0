"""What does a Django view cost with pooled connections, and how many does it need?

One view with one query, called through Django's WSGI handler in greenlets, as a server
on gevent calls it. First 10 requests at a time, beside Django's own backend on PyMySQL:
with persistent connections, of which each greenlet keeps one, so that nothing is opened
or given back; and with a new connection for each request. Then 200 requests at a time,
at a server that accepts 60 clients. A request that is refused is sent again.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from benchmarks.crowd import CONNECTIONS, Contestant, Turn, compare, throughput
from benchmarks.report import Column, Report
from benchmarks.rounds import Scale, Spread, ratio_between

OURS = "geventpool"
OURS_ALWAYS = "geventpool, reset='session'"
PERSISTENT = "stock, CONN_MAX_AGE=None"
FRESH = "stock, CONN_MAX_AGE=0"

#: Clients that the server accepts. Django's own backend needs one for each request.
ADMITTED = 60

#: The table that the view reads; the model is made once in a process.
TABLE = "benchmarks_item"
_model: Any = None


class RefusedError(Exception):
    """The view was answered with 500, because the server is full."""


def run(scale: Scale) -> Report:
    """Make both tables. May switch."""
    server = import_module("tests.servers").MariaDBServer
    report = Report("django", "what does a Django view cost, and need, with a pool?")
    with server(max_connections=ADMITTED) as running, _project(running) as ask:
        _add_ten(report, ask, scale)
        _add_many(report, ask, running, scale)
    return report


# The project


@contextmanager
def _project(server: Any) -> Iterator[Callable[[str], None]]:
    """Yield what calls the view with the name of a database.

    The settings of a Django that others of this process use stay as they were.
    """
    conf = import_module("django.conf")
    if not conf.settings.configured:
        conf.settings.configure(SECRET_KEY="known to everybody", USE_TZ=True)
        import_module("django").setup()
    db = import_module("django.db")
    utils = import_module("django.test.utils")
    stock = import_module("geventpool.django.mysql.upstream")
    # Django finds a backend by its name. Its own would need MySQLdb.
    sys.modules["benchmarks.stock_mysql.base"] = stock.base
    databases = _databases(server)
    db.connections.settings.update(databases)
    log = logging.getLogger("django.request")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    changes = {
        "ROOT_URLCONF": __name__,
        "MIDDLEWARE": [],
        "ALLOWED_HOSTS": ["*"],
        "DEBUG": False,
    }
    try:
        with utils.override_settings(**changes):
            _fill(db.connections[OURS])
            handler = import_module("django.core.handlers.wsgi").WSGIHandler()
            yield lambda name: _call(handler, name)
    finally:
        log.setLevel(level)
        _end(databases)
        for name in databases:
            del db.connections[name]
            del db.connections.settings[name]


def _end(names: Iterable[str]) -> None:
    """Close connections and pools."""
    for name in names:
        connection = import_module("django.db").connections[name]
        connection.close()
        if hasattr(connection, "close_pool"):
            connection.close_pool()


def _databases(server: Any) -> dict[str, Any]:
    def database(engine: str, age: int | None, **options: Any) -> dict[str, Any]:
        return {
            "ENGINE": engine,
            "NAME": server.database,
            "HOST": server.host,
            "PORT": server.port,
            "USER": server.user,
            "PASSWORD": server.password,
            "CONN_MAX_AGE": age,
            # PyMySQL would load all trusted certificates at each connect.
            "OPTIONS": {"ssl_disabled": True, **options},
        }

    def pooled(**options: Any) -> dict[str, Any]:
        pool = {"max_connections": CONNECTIONS, **options}
        return database("geventpool.django.mysql", 0, pool=pool)

    databases = {
        "default": {},
        OURS: pooled(),
        OURS_ALWAYS: pooled(reset="session"),
        PERSISTENT: database("benchmarks.stock_mysql", None),
        FRESH: database("benchmarks.stock_mysql", 0),
    }
    handler = import_module("django.db").connections
    complete: dict[str, Any] = handler.configure_settings(databases)
    # The default belongs to others.
    del complete["default"]
    return complete


def _fill(connection: Any) -> None:
    global _model
    if _model is None:
        models = import_module("django.db.models")
        meta = type("Meta", (), {"app_label": "benchmarks", "db_table": TABLE})
        body = {
            "__module__": __name__,
            "Meta": meta,
            "id": models.BigAutoField(primary_key=True),
            "name": models.CharField(max_length=50),
        }
        _model = type("Item", (models.Model,), body)
    with connection.schema_editor() as editor:
        editor.create_model(_model)
    _model.objects.using(OURS).create(id=1, name="an item")
    connection.close()


def _view(request: Any, name: str) -> Any:
    item = _model.objects.using(name).get(pk=1)
    return import_module("django.http").JsonResponse({"name": item.name})


def __getattr__(name: str) -> Any:
    # This module is also the URL configuration, once Django is there.
    if name == "urlpatterns":
        return [import_module("django.urls").path("<path:name>", _view)]
    raise AttributeError(name)


def _call(handler: Any, name: str) -> None:
    statuses: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": f"/{name}",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
    }
    response = handler(environ, lambda status, *rest: statuses.append(status))
    for _ in response:
        pass
    response.close()
    if not statuses[0].startswith("200"):
        raise RefusedError(statuses[0])


def _close_connections() -> None:
    """Do what a server does at the end of a greenlet."""
    import_module("django.db").connections.close_all()


# 10 and 200 at a time


def _add_ten(report: Report, ask: Callable[[str], None], scale: Scale) -> None:
    series, _ = compare(
        report,
        f"a view with one query, {CONNECTIONS} requests at a time",
        {
            name: Contestant([partial(ask, name)], at_end=_close_connections)
            for name in (OURS, OURS_ALWAYS, PERSISTENT, FRESH)
        },
        CONNECTIONS,
        scale.seconds / 2,
        scale.rounds,
        rivals=[FRESH],
        floor=PERSISTENT,
        key="ten at a time",
    )
    over = ratio_between(series, OURS, PERSISTENT, throughput)
    report.target(f"requests/s of {OURS} to {PERSISTENT}", over, 1.0, at_least=True)


def _add_many(
    report: Report, ask: Callable[[str], None], server: Any, scale: Scale
) -> None:
    # More than the server could accept, even at the smallest scale.
    greenlets = max(scale.crowd, 2 * ADMITTED)

    def begin(name: str) -> Contestant:
        return Contestant(
            [partial(ask, name)], (RefusedError,), _close_connections, warms_up=False
        )

    def counted(turn: Turn) -> Turn:
        done = replace(turn, connections=_most(server))
        _end((OURS, OURS_ALWAYS))
        server.ask("FLUSH STATUS")
        return done

    _end((OURS, OURS_ALWAYS))
    server.ask("FLUSH STATUS")
    count = "{:,.0f}".format
    columns = [
        Column("connections", lambda each: each.connections, "", text=count, pick=max),
        Column("refused in all", lambda each: each.refused, "", text=count, pick=sum),
    ]
    series, _ = compare(
        report,
        f"{greenlets} requests at a time, a server that accepts {ADMITTED} clients",
        {name: begin(name) for name in (OURS, PERSISTENT)},
        greenlets,
        scale.seconds,
        min(scale.rounds, 5),
        rivals=[PERSISTENT],
        after=counted,
        columns=columns,
        key="many at a time",
    )
    report.sections[-1].notes += [
        "refused: answered with 500, because the server is full",
        "connections: the most that the server counted",
    ]
    samples = series[OURS].samples
    if samples:
        most = Spread.of([float(max(each.connections for each in samples))])
        refused = Spread.of([float(sum(each.refused for each in samples))])
        report.target(f"connections of {OURS} at the server", most, CONNECTIONS)
        report.target(f"requests {OURS} refused", refused, 0.0)


def _most(server: Any) -> int:
    """Return the largest number of clients since the last flush of the status."""
    rows = server.ask("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")
    # One of them is the one that asks.
    return int(rows[0][1]) - 1
