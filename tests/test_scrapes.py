"""A scrape of a real server with several processes tells of all of them."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, multiprocess

from geventpool.testing import wait_until
from tests.event_loops import not_on_libuv
from tests.servers import RedisServer
from tests.web import gunicorn

USES = "db_client_connection_use_time_seconds_count"
OPEN = "db_client_connection_count"
MOST = "db_client_connection_max"


def scraped(folder: Path, name: str) -> float:
    """The sum of the samples of one name, as a worker answers a scrape."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    )


@not_on_libuv("redis-py's own pool finds data in silent sockets")
def test_counts_of_workers_of_gunicorn_go_on_and_gauges_follow_them(
    tmp_path: Path,
) -> None:
    """When a worker is killed, and when all are replaced: no count falls or is lost."""
    uses = 0
    root = str(Path(__file__).parent.parent)

    def agrees(server: RedisServer) -> Callable[[], bool]:
        def ask() -> bool:
            names = [each["name"] for each in server.clients()]
            try:
                is_complete = scraped(tmp_path, USES) == uses
                return is_complete and scraped(tmp_path, OPEN) == names.count("web")
            except struct.error:
                # A worker has made its file, and written nothing to it yet.
                return False

        return ask

    with (
        RedisServer() as server,
        gunicorn(
            *("-w", "2"),
            REDIS_PORT=str(server.port),
            PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
            PYTHONPATH=root,
        ) as web,
    ):

        def use_both() -> set[int]:
            nonlocal uses
            served: set[int] = set()
            while len(served) < 2:
                status, answer = web.get("/use")
                assert status == 200
                served.add(answer["process"])
                uses += 1
            return served

        first = use_both()
        wait_until(agrees(server))
        assert scraped(tmp_path, MOST) == 2 * 4
        os.kill(min(first), signal.SIGKILL)
        wait_until(lambda: scraped(tmp_path, MOST) == 4)
        wait_until(agrees(server))
        second = use_both()
        assert second != first
        wait_until(agrees(server))
        web.reload()
        wait_until(lambda: scraped(tmp_path, MOST) == 0)
        assert scraped(tmp_path, USES) == uses
        assert not use_both() & second
        wait_until(agrees(server))
