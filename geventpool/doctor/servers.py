"""Checks of a server: its limits and time-outs against the settings of the pools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from geventpool.advise.servers import MySQLTarget, RedisTarget, Target
from geventpool.advise.sizing import Capacity
from geventpool.dialing import KeepAlive
from geventpool.doctor.finding import ERROR, OK, WARNING, Finding

__all__ = ["TARGETS", "Settings", "check_capacity", "check_proxy", "check_server"]


@dataclass(frozen=True)
class Settings:
    """The settings of the pools that use a server.

    :param int workers: how many processes have such a pool.
    :param int max_connections: of each pool.
    :param max_idle: of each pool, in seconds; None: no limit.
    :param proxy_timeout: seconds after which a proxy or a firewall on the way forgets
        an idle connection; None: there is none.
    """

    workers: int
    max_connections: int
    max_idle: float | None
    proxy_timeout: float | None


class _Redis(RedisTarget):
    """A Redis server, and its time-out for idle connections."""

    def idle_timeout(self) -> float | None:
        redis = import_module("redis")
        client = redis.Redis(connection_pool=self.pool)
        try:
            found = client.config_get("timeout")
        except redis.ResponseError:
            return None
        return float(found.get("timeout", 0)) or None


class _MySQL(MySQLTarget):
    """A MySQL server, and its time-out for idle connections."""

    def idle_timeout(self) -> float | None:
        with self.pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT @@wait_timeout")
            return float(cursor.fetchone()[0])


TARGETS: dict[str, type[Any]] = {"redis": _Redis, "mysql": _MySQL}


def check_server(target: Target, settings: Settings) -> Iterator[Finding]:
    """Compare a server with the settings of the pools.

    May switch.

    :raises Exception: the server does not answer; the target describes the error.
    """
    conn = target.acquire()
    target.release(conn)
    yield Finding("server", OK, f"{target.place} answers")
    yield check_capacity(target.capacity(), settings)
    yield _check_idle(target.idle_timeout(), settings)  # type: ignore[attr-defined]


def check_capacity(capacity: Capacity, settings: Settings) -> Finding:
    """Check that a server accepts as many connections as all workers may open."""
    needed = settings.workers * settings.max_connections
    sum_of = f"{settings.workers} workers x {settings.max_connections} connections"
    if capacity.maximum is None or capacity.free is None:
        text = "the account may not ask for the limit of connections"
        return Finding("connections", WARNING, text, "compare it by hand")
    text = (
        f"{sum_of} = {needed}; the server accepts {capacity.maximum}, and "
        f"{capacity.used} are in use by others"
    )
    if needed <= capacity.free:
        return Finding("connections", OK, text)
    each = capacity.free // settings.workers
    advice = (
        f"max_connections={each}"
        if each
        else "use fewer workers or raise the limit of the server"
    )
    return Finding("connections", ERROR, text, advice)


def _check_idle(limit: float | None, settings: Settings) -> Finding:
    if limit is None:
        return Finding("idle time-out", OK, "the server sets none that it tells of")
    text = f"the server closes connections that are idle for {limit:g} s"
    if settings.max_idle is None:
        return Finding("idle time-out", OK, f"{text}; the pool notices it at once")
    if settings.max_idle < limit:
        return Finding("idle time-out", OK, f"{text}; the pool closes them earlier")
    return Finding("idle time-out", WARNING, text, f"max_idle={limit * 0.8:g}")


def check_proxy(settings: Settings) -> Iterator[Finding]:
    """Compare the time-out of a proxy with the settings. Never switches."""
    limit = settings.proxy_timeout
    if limit is None:
        return
    text = f"a proxy forgets connections that are idle for {limit:g} s"
    probe = KeepAlive().idle
    if settings.max_idle is not None and settings.max_idle < limit:
        yield Finding("proxy", OK, f"{text}; the pool closes them earlier")
    elif probe < limit:
        text += f"; keep-alive probes are sent each {probe} s"
        advice = f"max_idle={limit * 0.8:g}, if the proxy does not count probes"
        yield Finding("proxy", WARNING, text, advice)
    else:
        yield Finding("proxy", ERROR, text, f"max_idle={limit * 0.8:g}")
