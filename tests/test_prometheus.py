"""Metrics of all pools for prometheus_client."""

from __future__ import annotations

import atexit
import gc
import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.parser import text_string_to_metric_families

from geventpool import Budget, Pool, prometheus
from geventpool._core import measures
from geventpool._core.histograms import BOUNDS
from geventpool.series import begin
from geventpool.testing import ScriptedConnector, wait_until
from tests.pauses import turns
from tests.telemetry import busy_pool, isolated

POOL = "db_client_connection_pool_name"


def files_of(module):
    """What writes the numbers of each process into a file."""
    return module._files


@pytest.fixture()
def registry(monkeypatch):
    monkeypatch.setattr(prometheus, "_registries", [])
    with isolated(monkeypatch):
        registry = CollectorRegistry()
        prometheus.register(registry)
        yield registry


def samples(registry, name="busy"):
    """The values by the sample's name and its labels but the pool's."""
    found = {}
    text = generate_latest(registry).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            if labels.pop(POOL) == name:
                key = (sample.name, *labels.values())
                found[key] = sample.value
    return found


def test_all_metrics_of_a_pool_are_published(registry):
    """With the names that OpenTelemetry gives them in Prometheus."""
    pool, waiter = busy_pool()
    found = samples(registry)
    expected = {
        ("db_client_connection_count", "idle"): 0,
        ("db_client_connection_count", "used"): 1,
        ("db_client_connection_idle_max",): 1,
        ("db_client_connection_idle_min",): 0,
        ("db_client_connection_max",): 1,
        ("db_client_connection_pending_requests",): 1,
        ("db_client_connection_timeouts_total",): 1,
        ("db_client_connection_use_time_seconds_count",): 2,
        ("db_client_connection_wait_time_seconds_count",): 3,
        ("db_client_connection_create_time_seconds_count",): 2,
        ("geventpool_outage",): 0,
        ("geventpool_outages_total",): 0,
        ("geventpool_outage_time_seconds_total",): 0,
        ("geventpool_connection_failures_total",): 0,
        ("geventpool_connection_closed_total", "dropped"): 1,
        ("geventpool_refusals_total", "PoolDeadlockError"): 1,
        ("geventpool_refusals_total", "PoolExhaustedError"): 1,
        ("geventpool_deadlocks_total",): 1,
        ("geventpool_resets_total", "skipped"): 0,
        ("geventpool_commands_in_flight",): 7,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found["db_client_connection_use_time_seconds_bucket", "+Inf"] == 2
    assert ("geventpool_loop_lag_seconds_total",) in found
    waiter.kill()
    pool.close(timeout=0)


def test_buckets_are_cumulated(registry):
    """As Prometheus wants them."""
    with Pool(ScriptedConnector(), name="busy") as pool:
        for seconds in (0.0, 1.5, 1000.0):
            assert pool.measures is not None
            pool.measures.use.observe(seconds)
        found = samples(registry)
        name = "db_client_connection_use_time_seconds_bucket"
        assert [found[name, edge] for edge in (repr(BOUNDS[0]), "1.0", "2.0")] == [
            1,
            1,
            2,
        ]
        assert found[name, "+Inf"] == 3
        assert found["db_client_connection_use_time_seconds_sum",] == 1001.5


def test_pools_of_one_name_are_added_up_and_counts_outlive_them(registry):
    """A counter must not fall because a pool was collected."""
    with Pool(ScriptedConnector(), name="busy") as pool:
        pool.release(pool.acquire())
    other = Pool(ScriptedConnector(), name="busy")
    other.release(other.acquire())
    count = ("db_client_connection_use_time_seconds_count",)
    assert samples(registry)[count] == 2
    assert samples(registry)["db_client_connection_count", "idle"] == 1
    other.close()
    del pool, other
    gc.collect()
    assert not measures.kept()
    assert samples(registry)[count] == 2
    assert samples(registry)["db_client_connection_count", "idle"] == 0


def test_waits_and_uses_are_published_by_label(registry):
    """An endpoint that exhausts a pool is seen on the dashboard."""
    with Pool(ScriptedConnector(), name="busy") as pool:
        with pool.label("checkout"), pool.connection():
            pass
        found = samples(registry)
    assert found["geventpool_label_loans_total", "checkout"] == 1
    assert found["geventpool_label_refusals_total", "checkout"] == 0
    assert found["geventpool_label_wait_time_seconds_total", "checkout"] >= 0
    assert found["geventpool_label_use_time_seconds_total", "checkout"] > 0


def test_a_pool_without_a_limit_has_no_limit_in_the_metrics(registry):
    """The largest integer is no number of connections."""
    with Pool(ScriptedConnector(), name="busy", max_connections=sys.maxsize) as pool:
        found = samples(registry)
        assert ("db_client_connection_max",) not in found
        assert ("db_client_connection_count", "idle") in found
        assert pool.measures is not None


def test_registering_again_changes_nothing(registry):
    """Two libraries of a program may both do it."""
    prometheus.register(registry)
    assert len(prometheus._registries) == 1
    prometheus.flush()


def test_the_default_registry_is_the_default(registry, monkeypatch):
    """One call is all that most programs need."""
    fresh = CollectorRegistry()
    monkeypatch.setattr(prometheus, "REGISTRY", fresh)
    prometheus.register()
    assert prometheus._registries == [registry, fresh]


@pytest.mark.parametrize(
    ("interval", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError)]
)
def test_a_wrong_interval_is_refused(registry, interval, error):
    """Before anything has begun."""
    with pytest.raises(error, match="interval must be"):
        prometheus.register(interval=interval)


def test_existing_pools_are_measured_from_now_on(monkeypatch):
    """The order of imports does not matter."""
    with isolated(monkeypatch), Pool(ScriptedConnector()) as pool:
        monkeypatch.setattr("geventpool.series.readings.pools", lambda: [pool])
        monkeypatch.setattr(prometheus, "_registries", [])
        prometheus.register(CollectorRegistry())
        assert pool.measures is not None


# Several processes.


class Cell:
    """Stands in for a value in a file of this process."""

    _multiprocess = True
    cells: dict = {}

    #: how the values of several processes become one, by the name of the metric
    modes: dict = {}

    def __init__(self, kind, name, sample, names, contents, text, multiprocess_mode):
        self.key = (sample, *contents)
        self.modes[name] = multiprocess_mode

    def inc(self, amount):
        assert amount > 0
        self.cells[self.key] = self.cells.get(self.key, 0) + amount

    def set(self, value):
        self.cells[self.key] = value


@pytest.fixture()
def cells(monkeypatch):
    monkeypatch.setattr(Cell, "cells", {})
    monkeypatch.setattr(values, "ValueClass", Cell)
    monkeypatch.setattr(prometheus, "_files", prometheus._Files())
    with isolated(monkeypatch):
        yield Cell.cells
        atexit.unregister(files_of(prometheus).write)
        # The greenlet of a process that is another one ends.
        files_of(prometheus)._keep_writing(-1)
        monkeypatch.setattr(os, "getpid", lambda: -2)
        turns()


def test_counts_are_written_by_a_greenlet_once_a_pool_is_used(cells, monkeypatch):
    """Each process writes its own; a count is written once."""
    # Pools that other tests have left would begin at once.
    monkeypatch.setattr(prometheus, "pools", list)
    prometheus.register(interval=0.001)
    with Pool(ScriptedConnector(), name="p", max_connections=1) as pool:
        pool.release(pool.acquire())
        count = ("db_client_connection_use_time_seconds_bucket", "p")
        total = lambda: sum(cells[key] for key in cells if key[:2] == count)  # noqa: E731
        wait_until(lambda: total() == 1)
        pool.drop(pool.acquire())
        prometheus.flush()
        prometheus.flush()
        assert total() == 2
        assert cells["geventpool_connection_closed_total", "p", "dropped"] == 1
        assert cells["db_client_connection_count", "p", "idle"] == 0


def test_a_gauge_that_is_there_no_more_becomes_0(cells, tmp_path):
    """Its file would keep the last value for as long as the process lives."""
    begin()
    budget = Budget(tmp_path / "b", 4)
    pool = Pool(ScriptedConnector(), name="p", budget=budget)
    pool.acquire()
    prometheus.flush()
    held = "geventpool_budget_held", "p", budget.name
    assert cells[held] == 1
    assert Cell.modes["geventpool_budget_limit"] == "livemax"
    assert Cell.modes["geventpool_budget_held"] == "livesum"
    pool.close(timeout=0)
    del pool
    gc.collect()
    prometheus.flush()
    assert cells[held] == 0


def test_pools_that_are_in_use_already_are_written_at_once(cells, monkeypatch):
    """Their first event is over."""
    with Pool(ScriptedConnector(), name="p") as pool:
        pool.release(pool.acquire())
        monkeypatch.setattr(prometheus, "pools", lambda: [pool])
        monkeypatch.setattr("geventpool.series.readings.pools", lambda: [pool])
        prometheus.register(interval=0.001)
        wait_until(lambda: cells.get(("db_client_connection_count", "p", "idle")) == 1)


def test_a_process_begins_to_write_only_once(cells):
    """However many pools have their first event in it."""
    files_of(prometheus).start()
    files_of(prometheus).start()
    assert files_of(prometheus)._process


SERVER = """
    from gevent import monkey
    monkey.patch_all()
    import os, sys, time
    import gevent
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
    import geventpool.prometheus
    from geventpool import Pool
    from geventpool.testing import ScriptedConnector, wait_until

    def text():
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry).decode()

    def value(name):
        line = [each for each in text().splitlines() if each.startswith(name)]
        return float(line[0].split()[-1]) if line else None

    def until(ready):
        wait_until(ready, "the counts are written")

    USE = 'db_client_connection_use_time_seconds_count'
    IDLE = 'db_client_connection_count{db_client_connection_pool_name="p",'
    IDLE += 'db_client_connection_state="idle"}'
    early = Pool(ScriptedConnector(), name="p")
    early.release(early.acquire())
    geventpool.prometheus.register(interval=0.01)
    early.release(early.acquire())
    until(lambda: value(USE) == 1 and value(IDLE) == 1)

    children = []
    for number in (1, 2, 3):
        child = os.fork()
        if not child:
            try:
                for _ in range(10):
                    early.release(early.acquire())
                until(lambda: value(USE) == 1 + 10 * number)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
        assert os.waitpid(child, 0)[1] == 0
        until(lambda: value(USE) == 1 + 10 * number)
    # The files of ended processes stay until the server says that these are dead.
    assert value(IDLE) == 4, value(IDLE)
    for child in children:
        mark_process_dead(child)
    assert value(USE) == 31 and value(IDLE) == 1

    # A process that gets the number of an ended one adds to its counts.
    files = geventpool.prometheus._files
    files._written.clear()
    geventpool.prometheus.flush()
    assert value(USE) == 32
    print("well")
"""


def test_the_multi_process_mode_adds_up_all_workers(tmp_path):
    """``gunicorn -w 4``: a scrape reaches one worker and must tell of all."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SERVER)],
        env={
            "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stdout == "well\n", done.stderr
