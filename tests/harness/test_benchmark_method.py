"""The method of the benchmarks is honest, and the load counts right."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gevent
import pytest
from gevent.event import Event
from rich.console import Console

from benchmarks import report as reports
from benchmarks.adapters import PoolAdapter
from benchmarks.adapters.ours import fake, gevent_queue
from benchmarks.contention import Load, jain
from benchmarks.crowd import Contestant, Turn, p99, throughput, turn
from benchmarks.report import Column, Section, Target
from benchmarks.rounds import (
    SCALES,
    TINY,
    WARM_UP,
    Sample,
    Series,
    Spread,
    best_of,
    calibrated,
    interleave,
    over,
    timed,
)
from benchmarks.scaling import bare_line, served_turn
from tests.pauses import hang

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A finished run of a module of ours in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


# The method


def test_a_spread_is_the_median_with_its_quartiles() -> None:
    """Of many values a spread tells the middle half, not the extremes."""
    values = [float(number) for number in range(1, 101)]
    spread = Spread.of([*values, 1000.0])
    assert (spread.low, spread.median, spread.high) == (26.0, 51.0, 76.0)
    assert spread.width == pytest.approx(50 / 51)
    assert Spread.of([5.0]) == Spread(5.0, 5.0, 5.0)


def test_of_few_values_a_spread_tells_all() -> None:
    """The middle half of five values is luck; of nine, the outermost may be."""
    assert Spread.of([2.0, 1.0, 9.0, 3.0, 4.0]) == Spread(3.0, 1.0, 9.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)
    values = [float(number) for number in range(1, 10)]
    assert Spread.of(values) == Spread(5.0, 2.0, 8.0)


def test_no_difference_is_told_where_the_spread_is_wider_than_it() -> None:
    """A ratio whose bounds lie on both sides of 1 is no difference."""
    assert Spread(1.1, 0.9, 1.3).is_no_difference
    assert not Spread(1.1, 1.05, 1.3).is_no_difference
    assert reports.times(Spread(1.1, 0.9, 1.3)) == "no difference"
    assert reports.times(Spread(1.5, 1.4, 1.6)) == "1.50×"


def test_a_ratio_is_taken_round_by_round() -> None:
    """A slow round slows both, so it does not show in their ratio."""
    mine = Series("mine", [Sample(2.0, 0.0, 1), Sample(20.0, 0.0, 1)])
    theirs = Series("theirs", [Sample(1.0, 0.0, 1), Sample(10.0, 0.0, 1)])
    ratio = mine.over(theirs, lambda sample: sample.each)
    assert ratio == Spread(2.0, 2.0, 2.0)


def test_contestants_take_turns_in_another_order_each_round() -> None:
    """Nobody always comes first, and the warm-up does not count."""
    order: list[str] = []
    series = interleave({name: _noted(order, name) for name in "ab"}, rounds=3)
    assert "".join(order) == "abbaabba"
    assert [len(entry.samples) for entry in series.values()] == [3, 3]
    assert len(order) == 2 * (3 + WARM_UP)


def _noted(order: list[str], name: str) -> Callable[[], None]:
    return lambda: order.append(name)


def test_no_garbage_is_collected_during_a_turn() -> None:
    """The collector is off in a turn, and on again afterwards whatever happened."""
    seen: list[bool] = []
    interleave({"a": lambda: seen.append(gc.isenabled())}, rounds=1)
    interleave({"a": lambda: 1 / 0}, rounds=1)
    assert set(seen) == {False}
    assert gc.isenabled()


def test_a_contestant_that_fails_is_shown_and_the_others_go_on() -> None:
    """An error puts one contestant out, with the reason, and nobody else."""
    turns: dict[str, Callable[[], object]] = {"bad": lambda: 1 / 0, "good": dict}
    series = interleave(turns, rounds=2)
    assert series["bad"].error == "ZeroDivisionError: division by zero"
    assert series["bad"].samples == []
    assert len(series["good"].samples) == 2


def test_a_time_limit_in_a_turn_is_a_failure_too() -> None:
    """A contestant that starves till our own limit is shown as failed."""

    def starve() -> None:
        with gevent.Timeout(0.001):
            hang()

    assert "Timeout" in (interleave({"a": starve}, rounds=1)["a"].error or "")


def test_a_cycle_is_repeated_until_the_clock_can_tell() -> None:
    """Calibration asks for more cycles until they take long enough."""
    asked: list[int] = []

    def cycles(count: int) -> None:
        asked.append(count)
        sum(range(count))

    assert calibrated(cycles, 0.0005) >= 10
    assert asked == sorted(asked) and len(asked) > 1
    assert timed(lambda: 7).count == 7


# What is said


def test_a_target_is_met_at_the_limit_and_missed_beyond() -> None:
    """At most is at most, and at least is at least."""
    assert Target("t", Spread.of([6.0]), 6.0).is_met
    assert not Target("t", Spread.of([6.1]), 6.0).is_met
    assert Target("t", Spread.of([2.0]), 1.5, at_least=True).is_met
    assert not Target("t", Spread.of([1.4]), 1.5, at_least=True).is_met


def test_no_less_than_a_peer_is_kept_where_no_difference_can_be_told() -> None:
    """A promise of "no less" is not broken by noise."""
    assert Target("t", Spread(0.99, 0.98, 1.01), 1.0, at_least=True).is_met
    assert not Target("t", Spread(0.9, 0.88, 0.95), 1.0, at_least=True).is_met


@pytest.mark.parametrize(
    "seconds, text",
    [(5e-8, "50 ns"), (5e-6, "5.00 µs"), (0.0213, "21.3 ms"), (2.5, "2.50 s")],
)
def test_a_time_is_told_in_the_unit_that_suits_it(seconds: float, text: str) -> None:
    """Nobody must count zeros."""
    assert reports.duration(seconds) == text


def test_a_report_says_everything_on_the_terminal_and_as_plain_data() -> None:
    """Rows, notes, failures and targets are printed, and can be saved."""
    report = reports.Report("load", "how much?")
    section = Section("numbers", notes=["a note"])
    section.fill(series_of(ours=[1e-6]), [Column("each", float)], {"theirs": "starved"})
    report.sections.append(section)
    report.targets.append(Target("ratio", Spread.of([7.0]), 6.0))
    console = Console(width=100, record=True, file=open("/dev/null", "w"))
    with console.file:
        reports.show(report, console)
        text = console.export_text()
    for words in ("load: how much?", "1.00 µs", "theirs failed: starved", "MISSED"):
        assert words in text
    plain = json.loads(json.dumps(report.as_plain()))
    assert plain["targets"] == [{"is_met": False, "text": "ratio: 7, wanted <= 6"}]
    assert plain["sections"][0]["remarks"] == ["theirs failed: starved", "a note"]
    assert plain["sections"][0]["numbers"] == {"ours": {"each": [1e-6]}}


def series_of(**samples: list[float]) -> dict[str, Series[float]]:
    """Series by name; an empty one has failed."""
    return {
        name: Series(name, values, None if values else "starved")
        for name, values in samples.items()
    }


def test_a_table_has_a_row_for_each_contestant_and_keeps_its_numbers() -> None:
    """Those that failed have a reason instead, and no ratio is made up for them."""
    section = Section("title", floor="b", peer="bad")
    series = series_of(a=[2.0, 2.0], b=[1.0, 1.0], bad=[])
    column = Column("each", float, to=("floor", "peer"))
    other = Column("other", float, "", text=str)
    section.fill(series, [column, other], {"absent": "not installed"})
    columns = ["pool", "each", "spread", "to floor", "to peer", "other"]
    assert section.columns == columns
    assert section.rows[0] == ["a", "2.00 s", "±0 %", "2.00×", "", "2.0"]
    assert section.rows[1][3] == "1" and section.rows[2][:2] == ["bad", "failed"]
    assert section.failed == {"bad": "starved", "absent": "not installed"}
    assert list(section.numbers) == ["a", "b"]
    assert section.remarks()[2:] == ["floor: b", "peer: bad"]


def test_a_table_of_sizes_has_a_column_for_each() -> None:
    """A number or a tuple; who was not measured at a size has an empty cell."""
    sizes = {10: series_of(a=[2.0], b=[1.0]), (1, 2000): series_of(a=[3.0], bad=[])}
    section = Section("title", floor="b").fill_sizes(sizes, Column("each", float))
    assert section.columns == ["pool", "10", "1, 2,000"]
    assert section.rows == [
        ["a", "2.00 s", "3.00 s"],
        ["b", "1.00 s", ""],
        ["bad", "", "failed"],
    ]
    assert section.numbers["a"] == {"10": [2.0], "1, 2,000": [3.0]}


def test_contestants_are_compared_with_the_best_rival() -> None:
    """By the first column, of which more or less is better."""
    turns = {"a": lambda: 3.0, "b": lambda: 2.0, "c": lambda: 1.0}
    for more_is_better, best in ((True, "b"), (False, "c")):
        column = Column("each", float, "", more_is_better, to=("peer",))
        report = reports.Report("load", "how much?")
        table = report.compare("title", turns, 1, [column], rivals=["b", "c"])
        assert table.peer == best and report.sections == [table]
        assert table.spread("a", float) == Spread.of([3.0])


def test_a_starving_pool_is_named() -> None:
    """Only where somebody was left out."""
    section = Section("title")
    section.fill(series_of(fair=[0.0, 0.0], unfair=[3.0, 1.0]), [])
    section.starves(float, 10)
    who = "unfair starves: 3 of 10 greenlets never got a connection"
    assert section.notes == [who]


def test_nothing_is_compared_with_a_contestant_that_failed() -> None:
    """There is no ratio then, and the best is one that ran."""
    series = series_of(a=[2.0], b=[1.0], bad=[])
    assert over(series, "a", "b", float) == Spread(2.0, 2.0, 2.0)
    assert over(series, "a", "bad", float) is None
    assert over(series, "a", "absent", float) is None
    assert best_of(series, ["b", "a", "bad", "absent"], float) == "a"
    assert best_of(series, ["bad"], float) is None


# The load and the waiters


def test_fairness_is_one_if_all_are_served_alike() -> None:
    """Jain's index: 1 for equal shares, 1/n if one takes all, 0 for nothing."""
    assert jain([5, 5, 5, 5]) == 1.0
    assert jain([20, 0, 0, 0]) == 0.25
    assert jain([0, 0]) == 0.0


def _served(counts: list[int]) -> Turn:
    return Turn(1.0, 0.0, [0.1, 0.2, 0.3], counts, counts)


def test_throughput_counts_the_loans_of_all() -> None:
    """In the seconds of the load."""
    assert throughput(_served([1, 2])) == 3


def test_a_wait_that_never_ends_is_counted() -> None:
    """A pool that serves nobody can't hide the waits of those it starves."""
    never = PoolAdapter("never", Event().wait, id, lambda: None)
    sample = Load(greenlets=3, seconds=0.02).put_on(lambda limit: never)
    assert sample.served == [0, 0, 0]
    assert len(sample.waits) == 3 and sample.waits[0] > 0.01


def test_a_refused_request_is_asked_again() -> None:
    """A refusal is counted and is no service."""

    def refuse() -> None:
        raise KeyError

    contestant = PoolAdapter("no", refuse, id, lambda: None, refusals=(KeyError,))
    sample = Load(greenlets=2, seconds=0.02).put_on(lambda limit: contestant)
    assert sample.refused > 2 and sample.served == [0, 0]


def test_a_job_ends_when_all_greenlets_had_their_loans() -> None:
    """Of a job, all is served, and fairness is looked at on the way."""
    load = Load(greenlets=6, connections=2, hold=0.0, loans=4)
    sample = load.put_on(fake)
    assert sample.served == [4] * 6
    assert sum(sample.halfway) >= 12


def test_a_request_under_way_at_the_end_has_its_reply() -> None:
    """Unless the load is cut off: then it counts as long as it has lasted."""
    served: list[int] = []

    def answer(limit: list[Event]) -> None:
        limit[0].wait()
        served.append(1)

    for cuts in (False, True):
        go = Event()
        contestant = Contestant([partial(answer, [go])], warms_up=False)
        # The end is over before anybody has a reply.
        gevent.spawn(go.set) if not cuts else None
        seen = turn(contestant, 3, 0.0, cuts=cuts)
        assert seen.served == ([0] * 3 if cuts else [1] * 3)
        assert len(seen.waits) == 3
    assert len(served) == 3


def test_an_error_of_a_request_ends_the_turn(hub_errors) -> None:
    """It is shown as that of the contestant."""
    for warms_up in (True, False):
        with pytest.raises(ZeroDivisionError):
            turn(Contestant([lambda: 1 / 0, int], warms_up=warms_up), 2, 0.0)
    hub_errors.clear()


def test_the_first_request_of_each_greenlet_only_warms_up() -> None:
    """It is not counted, and its greenlet is the one that is measured."""
    seen: dict[object, int] = {}

    def ask() -> None:
        me = gevent.getcurrent()
        seen[me] = seen.get(me, 0) + 1

    done = turn(Contestant([ask]), 2, times=3)
    assert done.served == [3, 3] and list(seen.values()) == [4, 4]


def test_a_long_wait_stands_for_the_requests_that_were_not_sent() -> None:
    """Two greenlets have one reply in a second together, so each has one in two."""
    seen = Turn(4.0, 0.0, [1.0, 1.0, 1.0, 4.0], [3, 1], [3, 1])
    assert sorted(seen.latencies) == [0.0, 1.0, 1.0, 1.0, 2.0, 4.0]
    assert p99(seen) == 4.0


def test_the_possible_is_what_holders_without_a_pool_reach() -> None:
    """Nobody waits for a pool there, and the wait in turn follows from the rate."""
    load = Load(greenlets=20, connections=10, seconds=0.02)
    free = load.possible()
    assert len(free.served) == 10
    assert free.waits[0] == pytest.approx(10 / throughput(free))


@pytest.mark.parametrize("build", [fake, gevent_queue, bare_line])
def test_the_number_of_waiters_stays_the_same_while_they_are_served(
    build: Callable[[int], PoolAdapter],
) -> None:
    """Every loan that is timed is one among so many waiters."""
    assert served_turn(build, 5, 20)().count == 20


# The real thing


def test_an_unknown_workload_is_refused() -> None:
    """A slip of the pen does not run everything else, and says what there is."""
    done = run("benchmarks", "cicle")
    assert done.returncode == 2 and "'cicle' is not one of: cycle" in done.stderr


def test_the_scales_grow() -> None:
    """Tiny is for tests, quick for a look, full for numbers to believe."""
    assert list(SCALES) == ["tiny", "quick", "page", "full"]
    assert TINY.part(10_000) == 50 and TINY.part(1) == 20
