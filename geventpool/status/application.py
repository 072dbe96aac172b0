"""The WSGI application of the status page.

It binds nothing: mount it in the server of the program, under a path that only
operators can reach. Every answer is made of numbers that the pools have at that moment;
none of them waits for a connection or opens one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from geventpool.extension import measure_by_default
from geventpool.pool import Pool
from geventpool.pool import pools as open_pools
from geventpool.series import read
from geventpool.status import metrics
from geventpool.status.facts import core_of, facts, verdict
from geventpool.status.page import PAGE

__all__ = ["app"]

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
Application = Callable[[Environ, StartResponse], list[bytes]]
#: A status line, a media type and the body; and headers beside them.
Answer = tuple[str, str, str, list[tuple[str, str]]]

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


def app(pools: Iterable[Any] | None = None, *, measure: bool = True) -> Application:
    """A WSGI application that shows the state of pools.

    ================  ==============================================================
    ``/``             a page for people, which updates itself
    ``/status.json``  the same as JSON
    ``/metrics``      the metrics in the text format of Prometheus
    ``/healthz``      200 as long as the event loop runs
    ``/readyz``       200; 503 with reasons while a pool is closed or its server
                      cannot be reached
    ================  ==============================================================

    No answer waits for a connection or opens one. Passwords, addresses, keys,
    statements and arguments are not shown; names of files and functions are.

    Never switches.

    :param pools: the pools to show; None: all that are open when a request comes.
    :param bool measure: keep the times of the pools from now on, for the 99th
        percentiles on the page; see :meth:`geventpool.Pool.measure`.
    :raises TypeError: one of *pools* is no pool of this package.
    """
    if pools is not None and not isinstance(pools, Iterable):
        raise TypeError(
            f"pools must be several pools or None, not {type(pools).__name__}"
        )
    chosen = None if pools is None else tuple(core_of(pool) for pool in pools)
    if measure:
        _measure(chosen)
    routes: dict[str, Callable[[Environ], Answer]] = {
        "": _page,
        "/": _page,
        "/status.json": lambda environ: _json(facts(chosen)),
        "/metrics": lambda environ: _metrics(chosen, measure),
        "/healthz": lambda environ: ("200 OK", TEXT, "ok\n", []),
        "/readyz": lambda environ: _ready(verdict(chosen)),
    }

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        status, media, text, headers = _answer(routes, environ)
        body = text.encode()
        start_response(
            status,
            [
                ("Content-Type", media),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                *headers,
            ],
        )
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return application


def _measure(chosen: Iterable[Pool[Any]] | None) -> None:
    if chosen is None:
        measure_by_default()
    for pool in open_pools() if chosen is None else chosen:
        pool.measure()


def _answer(routes: dict[str, Callable[[Environ], Answer]], environ: Environ) -> Answer:
    make = routes.get(environ.get("PATH_INFO", ""))
    if make is None:
        return "404 Not Found", TEXT, "there is no such page\n", []
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        allow = [("Allow", "GET, HEAD")]
        return "405 Method Not Allowed", TEXT, "only GET and HEAD\n", allow
    return make(environ)


def _page(environ: Environ) -> Answer:
    nonce = secrets.token_urlsafe(16)
    # The path that the application is mounted at, whether or not the address that was
    # asked for ends in a slash. Two slashes at the start would name another host.
    base = "/" + environ.get("SCRIPT_NAME", "").strip("/")
    source = base.rstrip("/") + "/status.json"
    text = PAGE.replace("@NONCE@", nonce).replace("@SOURCE@", escape(source))
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    headers = [("Content-Security-Policy", policy)]
    return "200 OK", "text/html; charset=utf-8", text, headers


def _json(state: dict[str, Any]) -> Answer:
    return "200 OK", JSON, json.dumps(state), []


def _metrics(chosen: Iterable[Pool[Any]] | None, measured: bool) -> Answer:
    media = "text/plain; version=0.0.4; charset=utf-8"
    if chosen is None and not measured:
        chosen = open_pools()
    return "200 OK", media, metrics.text(read(chosen)), []


def _ready(reasons: dict[str, str]) -> Answer:
    if not reasons:
        return "200 OK", TEXT, "ready\n", []
    text = "".join(f"{name}: {reason}\n" for name, reason in reasons.items())
    return "503 Service Unavailable", TEXT, text, []
