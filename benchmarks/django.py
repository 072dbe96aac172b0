"""
What does a Django view cost with pooled connections, and how many does it need?

One view with one query, called through Django's WSGI handler in greenlets, as a server
on gevent calls it. Ten requests at a time: beside Django's own backend on PyMySQL with
persistent connections, of which each greenlet keeps one, so that nothing is opened or
given back at all; and without. Then two hundred at a time, before a server that admits
sixty clients.
"""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import gevent
from gevent.event import Event

from benchmarks.report import (
    Report,
    Section,
    Target,
    duration,
    number,
    plus_minus,
    ratio,
)
from benchmarks.rounds import Sample, Scale, Series, Spread, interleave, timed

OURS = "geventpool"
OURS_ALWAYS = "geventpool, reset='session'"
PERSISTENT = "stock, CONN_MAX_AGE=None"
FRESH = "stock, CONN_MAX_AGE=0"

CONCURRENT = 10
CONNECTIONS = 10
#: Clients the server admits: Django's own wants one for each request at a time.
ADMITTED = 60
#: Requests of each greenlet in one turn, at full scale: of ten, and of two hundred.
REQUESTS = 100
STORM = 10

#: What the view looks at; the model is made once in a process.
TABLE = "benchmarks_item"
_model: Any = None


@dataclass(frozen=True)
class Storm:
    """One turn of many requests at a time."""

    answered: int
    refused: int
    connections: int
    p99: float
    seconds: float


def run(scale: Scale) -> Report:
    """Both tables. **May switch.**"""
    server = import_module("tests.servers").MariaDBServer
    report = Report("django", "what does a Django view cost, and need, with a pool?")
    with server(max_connections=ADMITTED) as running, _project(running) as ask:
        _ten(report, ask, scale)
        _many(report, ask, running, scale)
    return report


# The project


@contextmanager
def _project(server: Any) -> Iterator[Callable[[str], int]]:
    """
    Yields what calls the view: with the name of a database, for the status.

    Leaves the settings of a Django that others of this process use as they were.
    """
    conf = import_module("django.conf")
    if not conf.settings.configured:
        conf.settings.configure(SECRET_KEY="known to everybody", USE_TZ=True)
        import_module("django").setup()
    db = import_module("django.db")
    utils = import_module("django.test.utils")
    stock = import_module("geventpool.django.mysql.stock")
    # Django finds a backend by its name. This one would need a MySQLdb.
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
    """Close what there is, the pools too."""
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
    # The default is not ours.
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
    # This module is the project's URLs as well, once there is a Django.
    if name == "urlpatterns":
        return [import_module("django.urls").path("<path:name>", _view)]
    raise AttributeError(name)


def _call(handler: Any, name: str) -> int:
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
    return int(statuses[0][:3])


def _let_go() -> None:
    """What a greenlet of a server leaves behind when its client has gone."""
    import_module("django.db").connections.close_all()


# Ten at a time


def _ten(report: Report, ask: Callable[[str], int], scale: Scale) -> None:
    requests = max(3, int(REQUESTS * scale.seconds))
    contestants = (OURS, OURS_ALWAYS, PERSISTENT, FRESH)
    turns = {name: _turn(ask, name, requests) for name in contestants}
    series = interleave(turns, scale.rounds)
    section = Section(
        f"a view with one query, {CONCURRENT} requests at a time",
        ["backend", "requests/s", "spread", "to persistent"],
        key="ten at a time",
        floor=PERSISTENT,
    )
    persistent = series[PERSISTENT]
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        spread = entry.spread(_rate)
        beside = "1" if entry is persistent else ratio(entry.over(persistent, _rate))
        section.add(name, number(spread.median), plus_minus(spread), beside)
        section.data[name] = [_rate(sample) for sample in entry.samples]
    section.measure(series, "requests/s", _rate, "1/s", more_is_better=True)
    section.notes.append("persistent: connections are opened before the clock starts")
    report.sections.append(section)
    if series[OURS].error is None and persistent.error is None:
        over = series[OURS].over(persistent, _rate)
        name = f"requests/s of {OURS} to {PERSISTENT}"
        report.targets.append(Target(name, over, 1.0, at_least=True))


def _rate(sample: Sample) -> float:
    return 1 / sample.each


def _turn(ask: Callable[[str], int], name: str, requests: int) -> Callable[[], Sample]:
    def work(begin: Event, ready: list[None]) -> None:
        assert ask(name) == 200
        ready.append(None)
        begin.wait()
        for _ in range(requests):
            assert ask(name) == 200
        _let_go()

    def turn() -> Sample:
        begin = Event()
        ready: list[None] = []
        crowd = [gevent.spawn(work, begin, ready) for _ in range(CONCURRENT)]
        while len(ready) < CONCURRENT and not any(each.dead for each in crowd):
            gevent.sleep(0.001)

        def all_requests() -> int:
            begin.set()
            gevent.joinall(crowd, raise_error=True)
            return CONCURRENT * requests

        return timed(all_requests)

    return turn


# Two hundred at a time


def _many(report: Report, ask: Callable[[str], int], server: Any, scale: Scale) -> None:
    requests = max(2, int(STORM * scale.seconds))
    # A crowd that the server could not admit, even at the smallest scale.
    crowd = max(scale.crowd, 2 * ADMITTED)
    turns = {
        name: _storm(ask, name, crowd, requests, server) for name in (OURS, PERSISTENT)
    }
    series = interleave(turns, min(scale.rounds, 5))
    section = Section(
        f"{crowd} requests at a time, a server that admits {ADMITTED} clients",
        ["backend", "answered", "refused", "connections", "p99", "requests/s"],
        key="many at a time",
    )
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        section.add(
            name,
            number(sum(each.answered for each in entry.samples)),
            number(sum(each.refused for each in entry.samples)),
            number(max(each.connections for each in entry.samples)),
            duration(entry.spread(lambda each: each.p99).median),
            number(entry.spread(_answers).median),
        )
        section.data[name] = [each.__dict__ for each in entry.samples]
    section.measure(series, "p99", lambda each: each.p99)
    section.notes.append("refused: answered with 500, for the server is full")
    section.notes.append("connections: the most the server had, by its own count")
    report.sections.append(section)
    if series[OURS].error is None:
        _promises(report, series[OURS])


def _promises(report: Report, entry: Series[Storm]) -> None:
    most = Spread.of([float(max(each.connections for each in entry.samples))])
    refused = Spread.of([float(sum(each.refused for each in entry.samples))])
    name = f"connections of {OURS} at the server"
    report.targets.append(Target(name, most, float(CONNECTIONS)))
    report.targets.append(Target(f"requests {OURS} refused", refused, 0.0))


def _answers(storm: Storm) -> float:
    return storm.answered / storm.seconds


def _storm(
    ask: Callable[[str], int], name: str, crowd: int, requests: int, server: Any
) -> Callable[[], Storm]:
    def turn() -> Storm:
        statuses: list[int] = []
        waits: list[float] = []

        def work() -> None:
            for _ in range(requests):
                began = time.perf_counter()
                statuses.append(ask(name))
                waits.append(time.perf_counter() - began)
            _let_go()

        _end((OURS, OURS_ALWAYS))
        server.ask("FLUSH STATUS")
        began = time.perf_counter()
        gevent.joinall([gevent.spawn(work) for _ in range(crowd)], raise_error=True)
        seconds = time.perf_counter() - began
        answered = statuses.count(200)
        waits.sort()
        return Storm(
            answered,
            len(statuses) - answered,
            _most(server),
            waits[int(len(waits) * 0.99)],
            seconds,
        )

    return turn


def _most(server: Any) -> int:
    """The most clients the server had since."""
    rows = server.ask("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")
    # One of them asked for it.
    return int(rows[0][1]) - 1


if __name__ == "__main__":
    from benchmarks.__main__ import main

    sys.exit(main(["django", *sys.argv[1:]]))
