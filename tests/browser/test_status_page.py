"""The status page works in a browser, on a phone and in the dark."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer

from geventpool import Budget, Outage, Pool, PoolExhaustedError, TcpConnection, status
from geventpool.testing import Clock, ScriptedConnector
from tests import parts
from tests.browser.driver import Browser, browser, is_installed

pytestmark = pytest.mark.skipif(
    not is_installed(), reason="chromium and chromedriver are not installed"
)

#: Where the picture for the documentation goes; empty: nowhere.
PICTURE = os.environ.get("GEVENTPOOL_PICTURE", "")

#: The program that the page shows.
VIEWS = compile(
    """
def send_mail():
    with pool.connection():
        done.wait()


def query():
    with pool.connection() as conn:
        conn.recv()
""",
    "shop/views.py",
    "exec",
)


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as window:
        yield window


@pytest.fixture
def pool() -> Iterator[Pool[Any]]:
    """A pool whose connections are held by greenlets that do something else."""
    done = Event()

    def serve(sock: Any, address: Any) -> None:
        done.wait()

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    options = {"host": "127.0.0.1", "port": server.server_port}
    clock = Clock()
    with Pool(
        TcpConnection, options, max_connections=3, name="shop <b>", leak_after=5
    ) as pool:
        views: dict[str, Any] = {"__name__": "views", "pool": pool, "done": done}
        exec(VIEWS, views)
        clock.rule(pool)
        works = (views["send_mail"], views["send_mail"], views["query"])
        workers = [gevent.spawn(work) for work in works]
        gevent.idle()
        while len(pool.lent_connections()) < 3:
            gevent.idle()
        workers.append(gevent.spawn(pool.acquire, None, 60))  # type: ignore[call-overload]
        assert parts.leaks(pool) is not None
        clock.advance(7.5)
        parts.leaks(pool).look()
        for _ in range(40):
            parts.idle_holds(pool).sample()
        yield pool
        gevent.killall(workers)
        done.set()
    server.stop(timeout=1)


@pytest.fixture
def lost() -> Iterator[Pool[Any]]:
    """A pool whose server cannot be reached."""
    refused = ConnectionRefusedError(111, "secret")
    connector = ScriptedConnector(open=[refused] * 1000)
    with Pool(connector, name="cache", outage=Outage(failures=1)) as pool:
        with pytest.raises((ConnectionRefusedError, PoolExhaustedError)):
            pool.acquire()
        yield pool


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool[Any]]:
    """A pool with a budget."""
    # A plain name looks better in the picture than the path of a test.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    budget = Budget("jobs", 40)
    with Pool(ScriptedConnector(), name="jobs", budget=budget) as pool:
        conns = [pool.acquire() for _ in range(7)]
        yield pool
        for conn in conns:
            pool.release(conn)


@pytest.fixture
def address(pool: Pool[Any], lost: Pool[Any], shared: Pool[Any]) -> Iterator[str]:
    server = WSGIServer(("127.0.0.1", 0), status.app([pool, lost, shared]), log=None)
    server.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.stop(timeout=1)


def shown(window: Browser) -> str:
    return str(window.run("return document.body.innerText"))


def test_the_page_shows_each_pool(window: Browser, address: str) -> None:
    """Names as they are, with the lines that an operator looks for."""
    window.resize(1100, 1240)
    window.set_dark(False)
    window.open(address)
    window.wait_for("return document.querySelectorAll('article').length == 4")
    text = shown(window)
    assert "shop <b>" in text and "cache" in text
    assert "ConnectionRefusedError 111" in text and "secret" not in text
    assert "in send_mail" in text and "Held while the connection is idle" in text
    assert "still lent, from" in text
    assert "7 of 40" in text and f"process {os.getpid()}, jobs: 7 places" in text
    favicon = "favicon"
    assert [each for each in window.complaints() if favicon not in each] == []
    # The curves grow with each reading.
    window.wait_for(
        "return document.querySelector('polyline').getAttribute('points')"
        ".split(' ').length >= 3"
    )
    if PICTURE:
        Path(PICTURE).write_bytes(window.picture())


def test_the_page_fits_a_phone(window: Browser, address: str) -> None:
    """Nothing is beyond the edge, however long a path is."""
    window.resize(360, 740)
    window.open(address)
    window.wait_for("return document.querySelectorAll('article').length == 4")
    assert window.run("return document.documentElement.scrollWidth") <= 360


def test_the_page_is_dark_where_that_is_preferred(
    window: Browser, address: str
) -> None:
    """Both are readable."""
    window.open(address)
    colours = []
    for is_dark in (False, True):
        window.set_dark(is_dark)
        colours.append(
            window.run("return getComputedStyle(document.body).backgroundColor")
        )
    assert len(set(colours)) == 2


def test_the_page_tells_that_the_server_is_gone(window: Browser, pool: Any) -> None:
    """Old numbers must not pass for new ones."""
    application = status.app([pool])
    gone = Event()

    def answer(environ: Any, start: Any) -> Any:
        if gone.is_set():
            start("502 Bad Gateway", [])
            return []
        return application(environ, start)

    server = WSGIServer(("127.0.0.1", 0), answer, log=None)
    server.start()
    window.open(f"http://127.0.0.1:{server.server_port}/")
    window.wait_for("return document.querySelectorAll('article').length == 1")
    gone.set()
    window.wait_for(
        "return document.getElementById('state').innerText == 'no answer: status 502'"
    )
    server.stop(timeout=1)
