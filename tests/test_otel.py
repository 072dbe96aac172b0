"""Metrics of all pools for OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("opentelemetry.sdk.metrics")

from importlib.metadata import entry_points

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    ExponentialBucketHistogramAggregation,
    View,
)

from geventpool import Budget, Pool, otel
from geventpool.otel import GeventPoolInstrumentor
from geventpool.series import HISTOGRAMS, VALUES
from geventpool.testing import ScriptedConnector
from tests.telemetry import busy_pool, isolated

POOL = "db.client.connection.pool.name"


def instrumented(*views):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False, views=views)
    GeventPoolInstrumentor().instrument(meter_provider=provider)
    return reader


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    with isolated(monkeypatch):
        yield
        GeventPoolInstrumentor().uninstrument()


def metrics(reader):
    """The metrics by name."""
    data = reader.get_metrics_data()
    return {
        metric.name: metric
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def points(reader):
    """The data points by the name and the attributes but the pool's name."""
    found = {}
    for name, metric in metrics(reader).items():
        for point in metric.data.data_points:
            attributes = dict(point.attributes)
            assert attributes.pop(POOL) == "busy"
            key = (name, *attributes.values())
            found[key] = point
    return found


def test_all_metrics_have_the_names_and_units_of_the_conventions():
    """Backends have dashboards for them."""
    reader = instrumented()
    pool, waiter = busy_pool()
    found = metrics(reader)
    units = {each.name: each.unit for each in (*VALUES, *HISTOGRAMS)}
    # These are for pools that have a budget, labels, a leak or an idle hold.
    kinds = ("geventpool.budget", "geventpool.label")
    rare = {name for name in units if name.startswith(kinds)}
    rare |= {"geventpool.leaks", "geventpool.idle_holds"}
    expected = {name: unit for name, unit in units.items() if name not in rare}
    assert {name: found[name].unit for name in found} == expected
    conventions = {
        "count": "{connection}",
        "idle.max": "{connection}",
        "idle.min": "{connection}",
        "max": "{connection}",
        "pending_requests": "{request}",
        "timeouts": "{timeout}",
        "create_time": "s",
        "wait_time": "s",
        "use_time": "s",
    }
    for name, unit in conventions.items():
        assert units[f"db.client.connection.{name}"] == unit
    waiter.kill()
    pool.close(timeout=0)


def test_the_numbers_are_those_of_the_pool():
    """Read when a reader collects, and not kept beside the pool."""
    reader = instrumented()
    pool, waiter = busy_pool()
    found = points(reader)
    expected = {
        ("db.client.connection.count", "idle"): 0,
        ("db.client.connection.count", "used"): 1,
        ("db.client.connection.pending_requests",): 1,
        ("db.client.connection.timeouts",): 1,
        ("geventpool.deadlocks",): 1,
        ("geventpool.commands.in_flight",): 7,
        ("geventpool.connection.closed", "dropped"): 1,
    }
    assert {key: found[key].value for key in expected} == expected
    assert found["db.client.connection.use_time",].count == 2
    assert found["db.client.connection.wait_time",].count == 3
    waiter.kill()
    pool.close(timeout=0)


def test_what_does_not_add_up_is_a_gauge(tmp_path):
    """Each process of the host tells the same limit: a sum would be too high."""
    reader = instrumented()
    budget = Budget(tmp_path / "b", 4)
    with Pool(ScriptedConnector(), name="busy", budget=budget) as pool:
        pool.acquire()
        found = metrics(reader)
        assert type(found["geventpool.budget.limit"].data).__name__ == "Gauge"
        assert type(found["geventpool.budget.held"].data).__name__ == "Sum"
        assert points(reader)["geventpool.budget.limit", budget.name].value == 4


def stored(pool):
    """Durations in several buckets, with their sum."""
    for seconds in (0.0, 0.0, 0.15, 3.0, 3.5, 1000.0):
        pool.measures.use.observe(seconds)
    return 6, 1006.65


@pytest.mark.parametrize("times", [1, 2])
def test_histograms_are_passed_on_exactly_and_once(times):
    """Number, sum and buckets, however often they are collected."""
    reader = instrumented()
    with Pool(ScriptedConnector(), name="busy") as pool:
        for _ in range(times):
            count, total = stored(pool)
            points(reader)
        point = points(reader)["db.client.connection.use_time",]
    assert point.count == times * count
    assert point.sum == pytest.approx(times * total)
    bounds = point.explicit_bounds
    assert point.bucket_counts[bounds.index(0.2)] == times
    assert point.bucket_counts[bounds.index(5.0)] == 2 * times
    assert point.bucket_counts[-1] == times


def test_each_pool_has_its_own_histogram():
    """The name tells them apart."""
    reader = instrumented()
    with (
        Pool(ScriptedConnector(), name="one") as one,
        Pool(ScriptedConnector(), name="two") as two,
    ):
        for pool in (one, two, two):
            stored(pool)
        metric = metrics(reader)["db.client.connection.use_time"]
        counts = {
            point.attributes[POOL]: point.count for point in metric.data.data_points
        }
        assert counts == {"one": 6, "two": 12}


@pytest.mark.parametrize(
    "view",
    [
        View(instrument_name="*.use_time", attribute_keys={POOL}),
        View(
            instrument_name="*.use_time",
            aggregation=ExponentialBucketHistogramAggregation(),
        ),
    ],
    ids=["attributes", "exponential"],
)
def test_a_view_of_the_program_is_respected(view):
    """Another aggregation gets the durations one by one."""
    reader = instrumented(view)
    with Pool(ScriptedConnector(), name="busy") as pool:
        count, _ = stored(pool)
        assert points(reader)["db.client.connection.use_time",].count == count


def test_an_unknown_sdk_gets_each_duration():
    """Its parts are looked at before any of them is changed."""
    recorded = []

    class Unknown:
        def record(self, seconds, attributes):
            recorded.append(seconds)

    otel.record(Unknown(), {}, [2, 1, *[0] * 19, 3], 5.0)
    assert len(recorded) == 6 and recorded.count(otel.EXAMPLES[-1]) == 3


def test_instrumenting_again_changes_nothing_and_can_be_undone():
    """Two parts of a program may both do it; a test may want to undo it."""
    reader = instrumented()
    other = instrumented()
    with Pool(ScriptedConnector(), name="busy"):
        assert points(reader) and not metrics(other)
        GeventPoolInstrumentor().uninstrument()
        GeventPoolInstrumentor().uninstrument()
        assert not any(
            metric.data.data_points
            for metric in metrics(reader).values()
            if metric.name.endswith(("count", "max"))
        )


def test_auto_instrumentation_finds_it():
    """``opentelemetry-instrument`` loads what this entry point names."""
    found = entry_points(group="opentelemetry_instrumentor", name="geventpool")
    if not found:
        pytest.skip("installed before there was an entry point")
    assert {each.load() for each in found} == {GeventPoolInstrumentor}


# What an exporter that calls the SDK from a listener does wrong.

SCENARIO = """
    from gevent import monkey
    monkey.patch_all()
    import sys
    from contextlib import ExitStack
    import gevent
    from gevent.event import Event
    from gevent.exceptions import BlockingSwitchOutError
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from geventpool import Pool, PoolListener
    from geventpool.otel import GeventPoolInstrumentor
    from geventpool.testing import ScriptedConnector, wait_until

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    outcomes = []

    class Naive(PoolListener):
        def __init__(self):
            meter = provider.get_meter("naive")
            self.counter = meter.create_counter("closed")

        def closed(self, conn, reason):
            try:
                with gevent.Timeout(0.2):
                    self.counter.add(1, {"reason": reason.value})
                outcomes.append("counted")
            except BaseException as error:
                outcomes.append(type(error).__name__)

    naive = sys.argv[1] == "naive"
    if not naive:
        GeventPoolInstrumentor().instrument(meter_provider=provider)
    listeners = [Naive()] if naive else []
    pool = Pool(ScriptedConnector(), name="p", listeners=listeners)
    storage = list(provider._measurement_consumer._reader_storages.values())[0]

    def closed():
        data = reader.get_metrics_data()
        for scope in data.resource_metrics[0].scope_metrics:
            for metric in scope.metrics:
                if metric.name == "geventpool.connection.closed":
                    return sum(point.value for point in metric.data.data_points)

    if sys.argv[2] == "hub":
        # A collection is under way when the hub closes what a dead greenlet held.
        told = Event()

        def collect():
            with storage._lock:
                told.wait()

        gevent.spawn(collect)
        gevent.sleep(0)
        gevent.spawn(pool.acquire).join()
        wait_until(lambda: outcomes if naive else pool.size == 0)
        told.set()
    else:
        # A finaliser runs inside the SDK, and gives a connection back.
        def finalise():
            if naive:
                listeners[0].counter.add(1, {"reason": "other"})
            reader.get_metrics_data()
            conn = pool.acquire()
            with ExitStack() as stack:
                for each in storage._instrument_view_instrument_matches.values():
                    stack.enter_context(each[0]._lock)
                pool.drop(conn)

        gevent.spawn(finalise).join()
    wait_until(lambda: outcomes if naive else closed())
    print(outcomes if naive else closed())
"""


@pytest.mark.parametrize(
    ("place", "naive"),
    [("hub", "['BlockingSwitchOutError']"), ("finaliser", "['Timeout']")],
)
def test_no_lock_of_the_sdk_is_taken_where_it_cannot_be_waited_for(place, naive):
    """In the hub a wait is an error, and in a finaliser it may never end."""
    assert outcome("naive", place) == naive
    assert outcome("ours", place) == "1"


def outcome(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCENARIO), *arguments],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    return done.stdout.strip() or done.stderr
