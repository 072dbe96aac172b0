"""Watching a pool: who is told, and what is counted."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geventpool import Pool
from geventpool._core.states import CloseReason
from geventpool.listeners import (
    Counters,
    Listeners,
    LogListener,
    PoolListener,
    PoolStats,
    Totals,
)
from geventpool.testing import ScriptedConnector

CONN = object()
ERROR = OSError(111, "refused")

#: Every event with the details it comes with.
EVENTS = {
    "opened": (CONN, 0.5),
    "open_failed": (ERROR, 0.25),
    "paused": (ERROR,),
    "resumed": (8.0,),
    "acquired": (CONN, 2.0),
    "exhausted": (3.0,),
    "released": (CONN, 4.0),
    "closed": (CONN, CloseReason.EXPIRED),
    "leaked": (CONN, 5.0, "views.py:88 in checkout", "client.py:5 in get"),
    "leak_ended": (CONN, 6.0, "views.py:88 in checkout"),
}


class Diary(PoolListener):
    """Notes everything, in a book that may be shared."""

    def __init__(self, book, name=""):
        self.book = book
        self.name = name

    def __getattribute__(self, event):
        if event not in EVENTS:
            return super().__getattribute__(event)
        return lambda *details: self.book.append((self.name, event, *details))


class Broken(PoolListener):
    """Fails at everything."""

    def __getattribute__(self, event):
        if event not in EVENTS:
            return super().__getattribute__(event)
        raise ValueError(event)


def test_every_event_is_tested_here():
    """The table above knows each method of a listener, and its number of details."""
    events = {
        name: len(inspect.signature(method).parameters) - 1
        for name, method in inspect.getmembers(PoolListener, inspect.isfunction)
        if not name.startswith("_")
    }
    assert events == {name: len(details) for name, details in EVENTS.items()}


# Listeners.


@pytest.mark.parametrize("event", EVENTS)
def test_a_listener_need_not_listen_to_everything(event):
    """Each method does nothing unless it is overridden."""
    assert getattr(PoolListener(), event)(*EVENTS[event]) is None


@pytest.mark.parametrize("event", ["open_failed", "paused", "resumed", "exhausted"])
def test_trouble_is_logged_as_a_warning(caplog, event):
    """What somebody on call should see is there without asking for it."""
    with caplog.at_level(logging.DEBUG):
        getattr(LogListener("redis"), event)(*EVENTS[event])
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("geventpool.redis", "WARNING")
    error = f"ConnectionRefusedError: {ERROR}"
    told = {
        "open_failed": f"could not open, after 0.250 s: {error}",
        "paused": f"the server cannot be reached, the pool pauses: {error}",
        "resumed": "the server is there again, after 8.000 s",
        "exhausted": "no connection became available within 3.000 s",
    }
    assert record.getMessage() == told[event]


def test_the_text_of_an_error_is_logged(caplog):
    """The repr of redis-py's errors is without it."""

    class Short(ConnectionError):
        def __repr__(self):
            return "network:Short"

    LogListener("redis").open_failed(Short("max number of clients reached"), 0.25)
    assert caplog.messages[0].endswith(": Short: max number of clients reached")


def test_an_outage_does_not_fill_the_log(caplog):
    """While a pool pauses, it tries to connect many times in a second."""
    listener = LogListener("redis")
    with caplog.at_level(logging.WARNING):
        for event in ["open_failed", "paused", *["open_failed"] * 9, "resumed"]:
            getattr(listener, event)(*EVENTS[event])
        listener.open_failed(ERROR, 0.25)
    told = [record.getMessage().split()[0] for record in caplog.records]
    assert told == ["could", "the", "the", "could"]


@pytest.mark.parametrize("event", ["opened", "closed"])
def test_what_is_no_trouble_is_logged_for_debugging(caplog, event):
    """Opening and closing are daily bread."""
    with caplog.at_level(logging.DEBUG):
        getattr(LogListener("redis"), event)(*EVENTS[event])
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("geventpool.redis", "DEBUG")
    told = {
        "opened": f"opened {CONN!r} in 0.500 s",
        "closed": f"closed {CONN!r}: expired",
    }
    assert record.getMessage() == told[event]


@pytest.mark.parametrize("event", ["acquired", "released"])
def test_loans_are_not_logged(caplog, event):
    """There are too many of them."""
    with caplog.at_level(logging.DEBUG):
        getattr(LogListener("redis"), event)(*EVENTS[event])
    assert not caplog.records


# Counting.


def test_before_anything_happened_all_counts_are_zero():
    """A fresh snapshot equals the default."""
    assert Counters().snapshot() == Totals()
    assert dict(Totals().closed) == {}


def test_each_event_is_counted_and_its_seconds_added():
    """Every event once gives every count and every sum."""
    counters = Counters()
    for event, details in EVENTS.items():
        getattr(counters, event)(*details)
    assert counters.snapshot() == Totals(
        opened=1,
        open_failed=1,
        paused=1,
        resumed=1,
        leaked=1,
        leak_ended=1,
        acquired=1,
        waited=1,
        exhausted=1,
        released=1,
        opening_seconds=0.5,
        outage_seconds=8.0,
        waiting_seconds=5.0,
        using_seconds=4.0,
        closed={CloseReason.EXPIRED: 1},
    )


def test_who_did_not_wait_is_not_counted_as_waiting():
    """A loan without a wait is only a loan."""
    counters = Counters()
    counters.acquired(CONN, 0.0)
    counters.acquired(CONN, 0.5)
    counts = counters.snapshot()
    assert (counts.acquired, counts.waited, counts.waiting_seconds) == (2, 1, 0.5)


def test_closings_are_counted_by_reason():
    """Why connections go is what one wants to know."""
    counters = Counters()
    for reason in (CloseReason.EXPIRED, CloseReason.DROPPED, CloseReason.EXPIRED):
        counters.closed(CONN, reason)
    closed = counters.snapshot().closed
    assert dict(closed) == {CloseReason.EXPIRED: 2, CloseReason.DROPPED: 1}


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(EVENTS))))
def test_nothing_is_counted_twice_or_lost(events):
    """Whatever the order of events, the counts are those of the events."""
    counters = Counters()
    for event in events:
        getattr(counters, event)(*EVENTS[event])
    counts = counters.snapshot()
    for event in EVENTS.keys() - {"closed"}:
        assert getattr(counts, event) == events.count(event)
    assert sum(counts.closed.values()) == events.count("closed")


def test_a_snapshot_does_not_change():
    """Neither by what happens later nor by who was given it."""
    counters = Counters()
    counters.closed(CONN, CloseReason.EXPIRED)
    counts = counters.snapshot()
    counters.closed(CONN, CloseReason.EXPIRED)
    counters.opened(CONN, 1.0)
    assert counts == Totals(closed={CloseReason.EXPIRED: 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        counts.opened = 7  # type: ignore[misc]
    with pytest.raises(TypeError):
        counts.closed[CloseReason.EXPIRED] = 7  # type: ignore[index]
    with pytest.raises(TypeError):
        Totals().closed[CloseReason.EXPIRED] = 7  # type: ignore[index]


@pytest.mark.parametrize(
    "export",
    [copy.copy, copy.deepcopy, lambda counts: pickle.loads(pickle.dumps(counts))],
)
def test_a_snapshot_can_be_exported(export):
    """To another process, to a file, to a page of figures."""
    counters = Counters()
    counters.closed(CONN, CloseReason.EXPIRED)
    counts = counters.snapshot()
    assert export(counts) == counts
    assert dataclasses.asdict(counts)["closed"] == {CloseReason.EXPIRED: 1}
    with pytest.raises(TypeError, match="do not change"):
        export(counts).closed.clear()


def test_stats_do_not_change():
    """They tell how it was at one moment; counted is only if somebody counts."""
    names = [field.name for field in dataclasses.fields(PoolStats)]
    optional = {"totals", "measured"}
    stats = PoolStats(**dict.fromkeys(set(names) - optional, 1))  # type: ignore[arg-type]
    assert stats.totals is None and stats.measured is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.size = 2  # type: ignore[misc]


# The audience.


@pytest.mark.parametrize("event", EVENTS)
def test_all_listeners_are_told_in_order(event):
    """Each hears of each event, with the details, in the order they were given in."""
    book: list[Any] = []
    audience = Listeners(Diary(book, name) for name in "abc")
    audience.notify(event, *EVENTS[event])
    assert book == [(name, event, *EVENTS[event]) for name in "abc"]


def test_a_mistake_of_one_listener_ends_with_it(caplog):
    """It is logged, goes no further, and the others are told all the same."""
    book: list[Any] = []
    audience = Listeners([Broken(), Diary(book), Broken()])
    with caplog.at_level(logging.ERROR, "geventpool"):
        audience.notify("exhausted", 1.0)
    assert book == [("", "exhausted", 1.0)]
    assert [str(record.exc_info[1]) for record in caplog.records] == ["exhausted"] * 2
    assert "failed at 'exhausted'" in caplog.text


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_program_is_no_mistake(ending):
    """What is to end the program is not held up."""

    class Ending(PoolListener):
        def exhausted(self, waited):
            raise ending

    with pytest.raises(ending):
        Listeners([Ending()]).notify("exhausted", 1.0)


def test_an_audience_without_listeners_is_false():
    """The pool asks once, and then pays nothing."""
    assert not Listeners(())
    assert Listeners([PoolListener()])
    Listeners(()).notify("exhausted", 1.0)


@pytest.mark.parametrize("wrong", [PoolListener, print, "x", None, 3], ids=repr)
def test_only_listeners_are_told(wrong):
    """Anything else is refused when it is passed, with its value."""
    with pytest.raises(TypeError) as caught:
        Listeners([PoolListener(), wrong])
    assert str(caught.value) == f"listeners must be PoolListeners, not {wrong!r}"


@pytest.mark.parametrize("wrong", [PoolListener(), None, 3], ids=repr)
def test_listeners_come_as_several(wrong):
    """A listener alone is no sequence of listeners; the error names the argument."""
    with pytest.raises(TypeError) as caught:
        Listeners(wrong)
    assert (
        str(caught.value) == f"listeners must be several PoolListeners, not {wrong!r}"
    )


def test_the_first_counters_speak_for_the_audience():
    """With two the counts are those of one; without any there are no counts."""
    first, second = Counters(), Counters()
    audience = Listeners([PoolListener(), first, second])
    first.opened(CONN, 1.0)
    assert audience.totals() == first.snapshot() != second.snapshot()
    assert Listeners([PoolListener()]).totals() is None


@pytest.mark.parametrize("name", ["acquird", "on_opened", "openfailed", "pause"])
def test_a_misspelt_method_of_a_listener_is_refused(name: str) -> None:
    """It would never be called, and nobody would be told."""
    kinds = {1: lambda self, error: None, 2: lambda self, what, seconds: None}
    method = kinds[1 if name == "pause" else 2]
    kind = type("Mine", (PoolListener,), {name: method})
    with pytest.raises(
        TypeError, match=rf"^Mine.{name}\(\) would never be called.*mean"
    ):
        Pool(ScriptedConnector(), listeners=[kind()])


def test_a_listener_may_have_methods_and_values_of_its_own() -> None:
    """One with other arguments than an event of a similar name is meant."""

    class Mine(PoolListener):
        opens = 0
        pauses = property(lambda self: 0)
        acquire = dict

        def close(self) -> None:
            raise AssertionError

        def report(self, conn: object, seconds: float) -> None:
            raise AssertionError

    Pool(ScriptedConnector(), listeners=[Mine()]).close()
