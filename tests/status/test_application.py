"""The status application tells the state of pools, never waits and tells no secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import gevent
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine

import geventpool
from geventpool import Budget, Outage, Pool, pools, status
from geventpool._core import measures
from geventpool.prometheus import PoolCollector
from geventpool.redis import ConnectionPool
from geventpool.sqlalchemy import GreenletPool
from geventpool.status.facts import plain
from geventpool.testing import ScriptedConnector, no_switch
from tests.telemetry import isolated
from tests.test_measures import measure_nothing

SECRET = "s3cr3t-w0rd"


class Answer:
    """What the application answered to one request."""

    def __init__(self, application: Any, path: str, method: str, mount: str) -> None:
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        environ.update(PATH_INFO=path, REQUEST_METHOD=method, SCRIPT_NAME=mount)
        environ["QUERY_STRING"] = ""
        # The validator asks for them.
        if mount == "" and path == "":
            environ["PATH_INFO"] = "/"
        with no_switch():
            chunks = validator(application)(environ, self.start)
            self.text = b"".join(chunks).decode()
            chunks.close()  # type: ignore[attr-defined]

    def start(self, state: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        self.status = int(state.split()[0])
        self.headers = dict(headers)
        return lambda data: None


def ask(
    application: Any, path: str = "/", method: str = "GET", mount: str = ""
) -> Answer:
    return Answer(application, path, method, mount)


@pytest.fixture
def pool() -> Iterator[Pool[Any]]:
    with Pool(ScriptedConnector(), max_connections=1, name="shop") as pool:
        yield pool


def test_the_json_has_each_pool_with_its_loans(pool: Pool[Any]) -> None:
    """An operator sees who holds what, and where it is."""
    done = gevent.event.Event()

    def hold() -> None:
        with pool.connection():
            done.wait()

    holder = gevent.spawn(hold)
    gevent.idle()
    answer = ask(status.app([pool]), "/status.json")
    done.set()
    holder.join()
    state = json.loads(answer.text)
    (shown,) = state["pools"]
    assert answer.status == 200 and answer.headers["Content-Type"] == "application/json"
    assert state["ready"] and shown["ready"] and shown["name"] == "shop"
    assert shown["stats"]["in_use"] == 1
    assert "test_application.py" in shown["loans"][0]["place"]


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether new pools are measured; as before at the end of the test."""
    measure_nothing(monkeypatch)
    return measures.is_default


def test_the_pools_are_measured_unless_it_is_not_wanted(
    pool: Pool[Any], default: Callable[[], bool]
) -> None:
    """The curve of the 99th percentile needs it."""
    status.app(measure=False)
    status.app([pool], measure=False)
    assert pool.measures is None and not default()
    status.app([pool])
    assert pool.measures is not None and not default()
    state = json.loads(ask(status.app([pool]), "/status.json").text)
    assert "p99" in state["pools"][0]["stats"]["measured"]["wait"]
    status.app()
    assert default()


def test_all_open_pools_are_shown_unless_some_are_named(
    pool: Pool[Any], default: Callable[[], bool]
) -> None:
    """A pool that is made later appears, and a closed one goes."""
    application = status.app()

    def names() -> set[str]:
        state = json.loads(ask(application, "/status.json").text)
        return {each["name"] for each in state["pools"]}

    with Pool(ScriptedConnector(), name="later") as later:
        assert {"later", "shop"} <= names()
        assert later in pools()
    assert "later" not in names()


def test_pools_of_adapters_are_taken() -> None:
    """Whatever pool the program made can be named."""
    redis = ConnectionPool(name="cache")
    engine = create_engine("mysql+pymysql://127.0.0.1:1/", poolclass=GreenletPool)
    state = status.facts([redis.core, engine.pool.core])  # type: ignore[attr-defined]
    assert next(each["name"] for each in state["pools"]) == "cache"
    assert ask(status.app([redis, engine.pool]), "/readyz").status == 200


@pytest.mark.parametrize("wrong", [3, [3], [None]])
def test_what_is_no_pool_is_refused(wrong: Any) -> None:
    """At once, and not at the first request."""
    with pytest.raises(TypeError, match="pools must be"):
        status.app(wrong)


def test_an_exhausted_pool_is_ready_and_no_answer_waits_for_it(
    pool: Pool[Any],
) -> None:
    """A probe that waits for a connection is how restarts cascade."""
    application = status.app([pool])
    with pool.connection():
        for path in ("/", "/status.json", "/metrics", "/healthz", "/readyz"):
            assert ask(application, path).status == 200


def test_a_closed_pool_is_not_ready() -> None:
    """Requests would fail, so they must go elsewhere."""
    pool: Pool[Any] = Pool(ScriptedConnector(), name="shop")
    pool.close()
    answer = ask(status.app([pool]), "/readyz")
    assert answer.status == 503 and answer.text == "shop: the pool is closed\n"
    assert ask(status.app([pool]), "/healthz").status == 200


def test_a_lost_server_makes_the_pool_not_ready_and_keeps_its_secret() -> None:
    """The failure is told by class and number: messages may contain anything."""
    refused = ConnectionRefusedError(111, f"redis://u:{SECRET}@127.0.0.1")
    connector = ScriptedConnector(open=[refused])
    with Pool(connector, name="shop", outage=Outage(failures=1)) as pool:
        with pytest.raises(ConnectionRefusedError):
            pool.acquire()
        application = status.app([pool])
        answer = ask(application, "/status.json")
        (shown,) = json.loads(answer.text)["pools"]
        assert shown["failure"]["error"].startswith("ConnectionRefusedError 111")
        assert shown["failure"]["lasting"] is not None
        assert SECRET not in answer.text
        assert ask(application, "/readyz").text == (
            "shop: the server cannot be reached\n"
        )
        assert 'geventpool_outage{db_client_connection_pool_name="shop"} 1' in (
            ask(application, "/metrics").text
        )


def test_arguments_of_holders_are_not_shown(pool: Pool[Any]) -> None:
    """They are passwords as often as not."""
    done = gevent.event.Event()

    def hold(secret: str) -> None:
        with pool.connection():
            done.wait()

    holder = gevent.spawn(hold, SECRET)
    gevent.idle()
    text = ask(status.app([pool]), "/status.json").text
    done.set()
    holder.join()
    assert "hold" in text and SECRET not in text


def test_the_page_refers_to_its_own_mount_and_to_nothing_else(
    pool: Pool[Any],
) -> None:
    """It works under any path, and the policy of the browser enforces the rest."""
    for mount, source in {
        "": "/status.json",
        "/pools": "/pools/status.json",
        "//evil.example": "/evil.example/status.json",
        '/"><script>': "/&quot;&gt;&lt;script&gt;/status.json",
    }.items():
        answer = ask(status.app([pool]), "/", mount=mount)
        assert f'data-source="{source}"' in answer.text
        assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert ask(status.app([pool]), "", mount="/pools").status == 200


def test_nonces_are_used_once(pool: Pool[Any]) -> None:
    """Otherwise the policy protects nothing."""
    application = status.app([pool])
    policies = {ask(application).headers["Content-Security-Policy"] for _ in range(2)}
    assert len(policies) == 2


def test_unknown_paths_and_methods_are_refused(pool: Pool[Any]) -> None:
    """Nothing can be changed through the page."""
    application = status.app([pool])
    assert ask(application, "/nothing").status == 404
    answer = ask(application, "/readyz", "POST")
    assert answer.status == 405 and answer.headers["Allow"] == "GET, HEAD"
    answer = ask(application, "/healthz", "HEAD")
    assert answer.status == 200 and answer.text == ""


def test_names_are_escaped_in_the_metrics() -> None:
    """A name may contain anything."""
    with Pool(ScriptedConnector(), name='a"b\\c\nd') as pool:
        text = ask(status.app([pool]), "/metrics").text
    assert 'pool_name="a\\"b\\\\c\\nd",db_client_connection_state="idle"} 0' in text
    assert all(line.startswith("#") or "{" in line for line in text.splitlines())


def test_a_pool_that_cannot_be_read_is_still_named(
    pool: Pool[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One bad pool must not hide the others."""

    def fail(most: int) -> Any:
        raise RuntimeError("dictionary changed size during iteration")

    monkeypatch.setattr(pool, "loans", fail)
    application = status.app([pool])
    with caplog.at_level(logging.CRITICAL, "geventpool"):
        (shown,) = json.loads(ask(application, "/status.json").text)["pools"]
        text = ask(application, "/metrics").text
    assert shown["name"] == "shop" and "could not be read" in shown["error"]
    assert 'db_client_connection_max{db_client_connection_pool_name="shop"} 1' in text


def test_facts_are_made_of_what_json_knows() -> None:
    """No infinity, and no text of an object that may be secret."""
    value = {geventpool.CloseReason.IDLE: (float("inf"), float("nan"), 1.5, SecretText)}
    assert plain(value) == {"idle too long": [None, None, 1.5, "type"]}


def test_the_metrics_are_those_of_the_exporters(
    pool: Pool[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dashboard fits both, whichever a program uses."""
    application = status.app([pool])
    pool.release(pool.acquire())
    with isolated(monkeypatch):
        measures.keep(pool, pool.measures)  # type: ignore[arg-type]
        registry = CollectorRegistry()
        registry.register(PoolCollector())
        expected = samples(generate_latest(registry).decode())
    found = samples(ask(application, "/metrics").text)
    assert found == expected
    assert found["db_client_connection_use_time_seconds_count", "shop"] == 1.0


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        # It grows while the machine is busy.
        if sample.name != "geventpool_loop_lag_seconds_total"
    }


def test_without_measuring_the_gauges_are_shown_and_no_counts(
    pool: Pool[Any], default: Callable[[], bool]
) -> None:
    """A count that stays 0 would be a lie."""
    for application in (
        status.app(measure=False),
        status.app([pool], measure=False),
    ):
        found = samples(ask(application, "/metrics").text)
        assert found["db_client_connection_count", "shop", "idle"] == 0
        names = {name for name, *others in found if others[0] == "shop"}
        assert not [name for name in names if "_time" in name or "_total" in name]


def test_each_budget_is_shown_once(tmp_path: Path) -> None:
    """With the part of each process."""
    budget = Budget(tmp_path / "b", 4)
    with (
        Pool(ScriptedConnector(), name="a", budget=budget) as one,
        Pool(ScriptedConnector(), name="b", budget=budget) as other,
        Pool(ScriptedConnector(), name="c") as third,
    ):
        one.acquire(), other.acquire()
        application = status.app([one, other, third])
        state = json.loads(ask(application, "/status.json").text)
        (shown,) = state["budgets"]
        found = samples(ask(application, "/metrics").text)
    assert (shown["name"], shown["total"], shown["held"]) == (budget.name, 4, 2)
    assert [(each["name"], each["held"]) for each in shown["shares"]] == [
        ("a", 1),
        ("b", 1),
    ]
    assert state["pools"][0]["stats"]["budget"]["own"]["held"] == 1
    assert found["geventpool_budget_taken", "a", budget.name] == 2
    assert found["geventpool_budget_held", "b", budget.name] == 1


class SecretText:
    """Its text must not be shown."""
