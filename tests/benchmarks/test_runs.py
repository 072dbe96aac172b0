"""Runs are saved, compared, drawn and shown in the docs as they are."""

from __future__ import annotations

import gc
import io
import json
import threading
from pathlib import Path
from typing import Any

import docutils.core
import gevent
import pytest
from rich.console import Console

from benchmarks import compare, metadata, plots, readme, results
from benchmarks import readme_block as shown
from benchmarks.__main__ import main
from benchmarks.contention import best_peer
from benchmarks.curves import Curve, Figure, jain
from benchmarks.load import generator
from benchmarks.progress import bars, step
from benchmarks.report import Measure, Report, Section, part
from benchmarks.rounds import Series, Spread, interleave, is_unsteady

OURS, PEER, FLOOR = "geventpool", "QueuePool", "gevent queue"


# The method


def test_runs_that_overlap_do_not_differ() -> None:
    """The ratio of two spreads is no difference exactly where they overlap."""
    old = Spread(10.0, 9.0, 11.0)
    assert Spread(11.5, 10.5, 12.0).over(old).is_no_difference
    assert not Spread(12.0, 11.5, 13.0).over(old).is_no_difference
    assert not Spread(8.0, 7.0, 8.5).over(old).is_no_difference


def test_what_deviates_by_more_than_a_tenth_is_unsteady() -> None:
    """The rule is pyperf's; one value alone deviates from nothing."""
    assert not is_unsteady([1.0]) and not is_unsteady([1.0, 1.01, 0.99])
    assert is_unsteady([1.0, 1.5, 0.6])
    assert not is_unsteady([0.0, 0.0])


def test_only_new_garbage_is_looked_for_between_turns() -> None:
    """What was there before is frozen meanwhile, and only meanwhile."""
    series = interleave({"a": gc.get_freeze_count}, rounds=1)
    assert series["a"].samples[0] > 1000
    assert gc.get_freeze_count() == 0


def test_the_generator_lends_to_everybody_at_once() -> None:
    """Nobody waits for a pool there: what is measured is the rest."""
    alone = generator(1)
    assert alone.acquire() is alone.acquire()
    alone.release(None)


# What a section keeps


def series_of(**samples: list[float]) -> dict[str, Series[float]]:
    """Series by name; an empty one has failed."""
    return {
        name: Series(name, values, None if values else "starved")
        for name, values in samples.items()
    }


def test_measures_are_kept_of_those_who_ran() -> None:
    """A contestant that failed has no samples to compare, and a reason to tell."""
    section = Section("title", ["pool", "each"])
    section.measure(series_of(good=[1.0, 2.0], bad=[]), "each", lambda value: value)
    section.fails("bad", "starved")
    assert section.measures == [Measure("good", "each", "s", [1.0, 2.0])]
    assert section.rows == [["bad", "failed"]]
    assert section.key == "title"


def test_what_must_be_known_is_said_below_the_table() -> None:
    """Failures, starvation, notes, and what was too noisy."""
    section = Section("title", ["pool", "each"], notes=["a note"])
    section.measure(series_of(noisy=[1.0, 3.0], calm=[1.0, 1.0]), "each", float)
    section.fails("bad", "no answer")
    section.starves("mean", 3, 4)
    remarks = section.remarks()
    assert remarks[:3] == [
        "bad failed: no answer",
        "mean starves: 3 of 4 greenlets never got a connection",
        "a note",
    ]
    assert "each (noisy)" in remarks[3] and len(remarks) == 4


def test_no_part_is_told_where_there_is_no_difference() -> None:
    """A part of the possible follows the rule of every other ratio."""
    assert part(Spread(0.97, 0.95, 1.01)) == "no difference"
    assert part(Spread(0.97, 0.95, 0.99)) == "97 %"


def test_a_saved_run_holds_no_number_that_is_none() -> None:
    """JSON has no infinity; a run of many minutes is not lost to one."""
    report = Report("load", "how much?", [Section("title", ["pool"])])
    report.sections[0].measures.append(
        Measure(OURS, "each", "s", [1.0, float("nan"), float("inf")])
    )
    plain = report.as_json()
    text = json.dumps(plain, allow_nan=False)
    assert json.loads(text)["sections"][0]["measures"][0]["samples"] == [1, None, None]
    assert results.measures(plain["sections"][0]) == {}


# Progress


def test_bars_are_drawn_on_a_terminal_and_nowhere_else() -> None:
    """A file gets tables alone."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    plain = Console(file=io.StringIO(), force_terminal=False)
    for console in (terminal, plain):
        with bars("cycle", console), step("loans", 2) as tick:
            tick(OURS)
            tick(PEER)
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "cycle: loans" in text and "1/2" in text and PEER in text
    assert plain.file.getvalue() == ""  # type: ignore[attr-defined]


def test_nothing_is_drawn_during_a_turn() -> None:
    """A display that refreshes itself would run in what is timed."""
    console = Console(file=io.StringIO(), force_terminal=True)
    before = threading.active_count()
    with bars("cycle", console), step("loans", 1) as tick:
        tick(OURS)
        assert threading.active_count() == before


# The machine


def test_the_surroundings_are_kept_with_the_numbers() -> None:
    """Processor, cores, versions, date and command, as plain data."""
    where = metadata.collect(["cycle", "--quick"])
    assert where["command"] == "python -m benchmarks cycle --quick"
    assert where["cpu"] and where["cores"] and where["packages"]["gevent"]
    assert json.loads(json.dumps(where)) == where


def test_an_unsteady_machine_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that changes its speed, other work, a tracer."""
    for name, text in (
        ("cpu0/cpufreq/scaling_governor", "powersave\n"),
        ("intel_pstate/no_turbo", "0\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(metadata, "SYS_CPU", tmp_path)
    monkeypatch.setattr(metadata.os, "getloadavg", lambda: (9.0, 9.0, 9.0))
    monkeypatch.setattr(metadata.os, "cpu_count", lambda: 2)
    monkeypatch.setenv("PYTHONMALLOC", "debug")
    warned = " ".join(metadata.warnings())
    for words in ("powersave", "turbo", "load 9.0 on 2 cores", "debug mode"):
        assert words in warned


# Comparison


def run_of(**more: Any) -> results.Run:
    """A run in which ours takes 4, the floor 1, and a peer 8 of something."""
    section = Section("title", ["pool"], key="loans", floor=FLOOR, best=PEER)
    samples = {OURS: 4.0, FLOOR: 1.0, PEER: 8.0}
    for name, each in samples.items():
        values = [each * noise for noise in (0.99, 1.0, 1.01)]
        section.measures.append(Measure(name, "each", "s", values))
    report = Report("cycle", "how much?", [section])
    where = {"date": "2026-01-01", "cpu": "a", "python": "3.11", "packages": {}}
    return results.run_of({**where, **more}, "tiny", [report])


def scaled(run: results.Run, times: float, *names: str) -> results.Run:
    """The run with these contestants so many times slower."""
    new: results.Run = json.loads(json.dumps(run))
    for measure in new["workloads"]["cycle"]["sections"][0]["measures"]:
        if measure["contestant"] in names:
            measure["samples"] = [value * times for value in measure["samples"]]
    return new


def verdicts(old: results.Run, new: results.Run) -> dict[str, str]:
    """The verdict on each contestant."""
    return {row.new.contestant: row.verdict for row in compare.rows(old, new)}


def test_a_machine_twice_as_slow_makes_no_pool_worse() -> None:
    """What is judged is the ratio to the floor of the same run."""
    old = run_of()
    [ours, *_] = compare.rows(old, scaled(old, 2.0, OURS, FLOOR, PEER))
    assert ours.reference == FLOOR and ours.verdict == compare.EQUAL_WORD
    assert ours.change is not None and ours.change.median == 1.0


def test_a_pool_that_became_slower_is_worse_and_back_again_better() -> None:
    """New over old, against the floor; the others have not changed."""
    old = run_of()
    new = scaled(old, 1.5, OURS)
    assert verdicts(old, new) == {
        OURS: compare.WORSE,
        FLOOR: compare.EQUAL_WORD,
        PEER: compare.EQUAL_WORD,
    }
    assert verdicts(new, old)[OURS] == compare.BETTER


def test_more_is_better_where_it_is() -> None:
    """A higher rate is no loss."""
    old = run_of()
    for measure in old["workloads"]["cycle"]["sections"][0]["measures"]:
        measure["more_is_better"] = True
    assert verdicts(old, scaled(old, 1.5, OURS))[OURS] == compare.BETTER


def test_a_change_within_the_spread_is_no_difference() -> None:
    """One per cent is nothing where the rounds differ by more."""
    old = run_of()
    for measure in old["workloads"]["cycle"]["sections"][0]["measures"]:
        if measure["contestant"] == PEER:
            measure["samples"] = [8.1, 8.0, 7.8]
    assert verdicts(old, scaled(old, 1.01, PEER))[PEER] == compare.EQUAL_WORD
    assert verdicts(old, scaled(old, 1.15, PEER))[PEER] == compare.WORSE


def test_two_processes_are_never_alike() -> None:
    """What a run differs from itself run again is no difference."""
    old = run_of()
    assert verdicts(old, scaled(old, 1.02, OURS))[OURS] == compare.EQUAL_WORD
    assert verdicts(old, scaled(old, 1.04, OURS))[OURS] == compare.WORSE


def test_the_best_peer_of_both_runs_is_the_same_peer() -> None:
    """Where another peer is the best now, the old one still is the reference."""
    old, new = run_of(), run_of()
    for run in (old, new):
        run["workloads"]["cycle"]["sections"][0]["floor"] = None
    new["workloads"]["cycle"]["sections"][0]["best"] = "PooledDB"
    [ours, *_] = compare.rows(old, new)
    assert ours.reference == PEER


def test_what_was_nothing_has_no_ratio_and_still_a_verdict() -> None:
    """From nobody left out to some is worse; to nobody again better."""
    old = run_of()
    none = scaled(old, 0.0, OURS)
    assert verdicts(none, old)[OURS] == compare.WORSE
    assert verdicts(old, none)[OURS] == compare.BETTER
    assert verdicts(none, none)[OURS] == compare.EQUAL_WORD


def test_what_is_in_one_run_only_is_named() -> None:
    """A peer that failed this time does not just vanish."""
    old, new = run_of(), run_of()
    measures = new["workloads"]["cycle"]["sections"][0]["measures"]
    measures[:] = [each for each in measures if each["contestant"] != PEER]
    assert list(compare.missing(old, new)) == [
        f"only in the old run: cycle: loans, {PEER}"
    ]
    assert list(compare.missing(new, old)) == [
        f"only in the new run: cycle: loans, {PEER}"
    ]
    del new["workloads"]["cycle"]
    assert list(compare.rows(old, new)) == []


def test_runs_of_different_origin_are_compared_with_a_warning() -> None:
    """Another machine, another version, another scale."""
    old = run_of(packages={"gevent": "25.9.1", "geventpool": "1"})
    new = run_of(cpu="b", packages={"gevent": "26.9.0", "geventpool": "2"})
    new["scale"] = "full"
    warned = list(compare.warnings(old, new))
    assert warned == [
        "different cpu: a, now b",
        "different gevent: 25.9.1, now 26.9.0",
        "different scale: tiny, now full",
    ]
    console = Console(file=io.StringIO(), width=120)
    compare.show(old, scaled(new, 1.5, OURS), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "warning: different cpu" in text and "no difference" in text
    assert "0 better, 1 worse, 2 no difference" in text


@pytest.mark.parametrize("text", ["", "[]", '{"some": 1}', '{"format": 99}'])
def test_what_is_no_run_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured, and with its name."""
    other = tmp_path / "other.json"
    other.write_text(text)
    assert main(["cycle", "--compare", str(other)]) == 2
    assert "other.json" in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        main(["compare", str(other), str(other)])
    assert refused.value.code == 2


# Figures


def test_a_latency_curve_tells_what_part_of_the_waits_is_shorter() -> None:
    """Half of the waits are below the median, and the curve ends at the longest."""
    waits = [float(number) for number in range(1000, 0, -1)]
    [curve] = Figure.of_waits("f", "t", "c", {OURS: waits, PEER: []}).curves
    middle = min(curve.x, key=lambda part: abs(part - 0.5))
    assert curve.y[curve.x.index(middle)] == int(middle * 1000) + 1
    assert curve.x[0] == 0 and curve.x[-1] == 0.999 and curve.y[-1] == 1000


def test_a_figure_is_the_same_after_it_was_saved() -> None:
    """Pictures can be drawn from the file alone."""
    figure = figure_of_lines()
    report = Report("cycle", "?", figures=[figure])
    run = results.run_of({}, "tiny", [report])
    assert list(results.figures(json.loads(json.dumps(run)))) == [figure]


def figure_of_lines() -> Figure:
    """Two pools of two sizes."""
    spread = Spread(2e-6, 1e-6, 3e-6)
    lines = {OURS: {10: spread, 100: spread}, PEER: {100: spread, 10: spread}}
    return Figure.of_lines("sizes", "Alike", "c", "size", "time", lines, unit="s")


# Pictures


def drawn(folder: Path, *figures: Figure) -> dict[str, bytes]:
    """The files that are drawn of these figures."""
    report = Report("cycle", "?", figures=list(figures))
    command = "python -m benchmarks cycle --json somewhere/private.json --quick"
    run = results.run_of({"command": command}, "tiny", [report])
    return {path.name: path.read_bytes() for path in plots.draw(run, folder)}


def test_every_figure_is_drawn_twice_the_same(tmp_path: Path) -> None:
    """PNG and SVG of each kind; the same numbers give the same bytes."""
    figures = (
        Figure.of_waits("waits", "t", "c", {OURS: [0.0, 0.1, 0.2], FLOOR: [0.1] * 9}),
        figure_of_lines(),
        Figure.of_waits("nothing", "t", "c", {}),
    )
    first = drawn(tmp_path / "first", *figures)
    assert sorted(first) == [
        f"{name}.{ending}" for name in ("sizes", "waits") for ending in ("png", "svg")
    ]
    assert all(len(content) > 5000 for content in first.values())
    assert drawn(tmp_path / "second", *figures) == first


def test_no_picture_shows_where_files_are_kept() -> None:
    """The command in the caption is what matters of it."""
    command = "python -m benchmarks cycle --json a/b.json --quick --plots=c"
    assert plots.shown_command(command) == "python -m benchmarks cycle --quick"


def test_a_pool_looks_the_same_in_every_picture_and_like_no_other() -> None:
    """Whatever is added to its name; what nobody thought of has a look too."""
    assert plots.look_of("geventpool with block") == plots.look_of(OURS)
    assert plots.look_of("QueuePool, no reset") == plots.look_of(PEER)
    pools = [OURS, PEER, "redis Blocking", "redis Pool", "PooledDB", "gsocketpool"]
    pools += ["pymysql-pool", "geventhttpclient", "psycopg_pool"]
    assert len({plots.look_of(name).colour for name in pools}) == len(pools)
    assert len({plots.look_of(name).mark for name in pools}) == len(pools)
    assert plots.look_of("unheard of") in plots.SPARE


def test_a_pool_set_up_in_another_way_is_told_from_itself() -> None:
    """The same colour and another line, and a name that fits beside the picture."""
    own = plots._style_of(Curve(OURS, [1], [1]))
    other = plots._style_of(Curve(f"{OURS}, twenty dials at a time", [1], [1]))
    assert own["color"] == other["color"] and own["linestyle"] != other["linestyle"]
    assert max(map(len, other["label"].splitlines())) <= plots.LEGEND


@pytest.mark.parametrize(
    "seconds, text", [(0, "0"), (5e-8, "50 ns"), (1e-2, "10 ms"), (2.0, "2 s")]
)
def test_an_axis_has_round_times(seconds: float, text: str) -> None:
    """10 ms, not 10.0 ms or 0.01 s."""
    assert plots.short_duration(seconds) == text


# The page


TEXT = f"before\n\n{readme.BEGIN}\nold\n{readme.END}\n\nafter\n"


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    """Everything around stays, and the same block again changes nothing."""
    new = readme.replaced(TEXT, "new")
    assert new == f"before\n\n{readme.BEGIN}\n\nnew\n\n{readme.END}\n\nafter\n"
    assert readme.replaced(new, "new") == new


@pytest.mark.parametrize(
    "text",
    ["", f"{readme.BEGIN}\n", f"{readme.END}\n{readme.BEGIN}\n", TEXT + TEXT],
)
def test_a_text_without_its_marks_is_refused(text: str) -> None:
    """Nobody guesses where the numbers go."""
    with pytest.raises(readme.NoMarksError):
        readme.replaced(text, "new")


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all that needs no server, as small as can be, in a file."""
    path = tmp_path_factory.mktemp("run") / "run.json"
    assert main([*SERVERLESS, "--scale", "tiny", "--json", str(path)]) == 0
    return path


SERVERLESS = ("cycle", "contention", "scaling", "hangup_cost")


def test_every_workload_runs_and_saves_its_numbers(tiny_run: Path) -> None:
    """Each workload has promises, measures, and our pool among them."""
    run = results.load(tiny_run)
    assert tuple(run["workloads"]) == SERVERLESS and run["scale"] == "tiny"
    assert run["packages"]["gevent"] and "cycle" in run["command"]
    for name, workload in run["workloads"].items():
        assert workload["targets"], name
        for section in workload["sections"]:
            measured = {measure["contestant"] for measure in section["measures"]}
            assert name == "hangup_cost" or OURS in measured
            assert OURS not in section["failed"]
            assert section["floor"] in measured
    names = [figure.name for figure in results.figures(run)]
    assert len(set(names)) == len(names) >= 4


def test_the_page_is_written_from_a_run(tmp_path: Path, tiny_run: Path) -> None:
    """Good markup, two pictures that are there, one table; again the same."""
    target = tmp_path / "benchmarks.rst"
    target.write_text(TEXT)
    assert main(["readme", "--from", str(tiny_run), "--page", str(target)]) == 0
    text = target.read_text()
    docutils.core.publish_string(
        text, writer="null", settings_overrides={"halt_level": 2, "report_level": 2}
    )
    images = [line.split()[-1] for line in text.splitlines() if ".. image::" in line]
    assert len(images) == 2
    assert all((tmp_path / path).is_file() for path in images)
    assert f"\n{OURS} " in text and f"gevent {gevent.__version__}" in text
    kept = tmp_path / shown.PICTURES / readme.NUMBERS
    assert main(["readme", "--from", str(kept), "--page", str(target)]) == 0
    assert target.read_text() == text


def test_a_peer_that_failed_stands_in_the_page_as_such(tiny_run: Path) -> None:
    """In the table, and with its reason below."""
    run = results.load(tiny_run)
    for name in ("cycle", "contention"):
        for section in run["workloads"][name]["sections"]:
            section["measures"] = [
                each for each in section["measures"] if each["contestant"] != PEER
            ]
            section["failed"][PEER] = "OSError: it broke"
    [row] = [line for line in shown.block_of(run).splitlines() if PEER + " " in line][
        :1
    ]
    assert row.split()[1:] == ["failed"] * 5
    assert f"{PEER} failed: OSError: it broke" in shown.block_of(run)


def test_a_run_compared_with_itself_shows_no_difference(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command for two files."""
    assert main(["compare", str(tiny_run), str(tiny_run)]) == 0
    assert "0 better, 0 worse" in capsys.readouterr().out


def test_figures_are_drawn_by_the_command(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the file alone, into a folder that is made."""
    run = results.load(tiny_run)
    run["workloads"]["contention"]["figures"][1:] = []
    del run["workloads"]["scaling"]
    results.save(tmp_path / "run.json", run)
    assert (
        main(["plot", str(tmp_path / "run.json"), str(tmp_path / "new" / "dir")]) == 0
    )
    assert (tmp_path / "new" / "dir" / "waits-job.svg").is_file()
    assert "waits-job.png" in capsys.readouterr().out


def test_the_page_shows_what_is_there() -> None:
    """The block in the page is the one its kept numbers give."""
    kept = results.load(readme.PAGE.parent / shown.PICTURES / readme.NUMBERS)
    text = readme.PAGE.read_text()
    assert readme.replaced(text, shown.block_of(kept)) == text
    for name in shown.SHOWN:
        assert (readme.PAGE.parent / shown.PICTURES / f"{name}.svg").is_file()


def test_the_best_peer_is_none_of_the_floors() -> None:
    """What only shows what is possible is nobody to be measured against."""
    names = ("the possible", "the generator alone", FLOOR, OURS)
    assert best_peer({name: Series(name, []) for name in names}) is None


def test_jains_index_is_one_for_equal_shares() -> None:
    """And one part in as many as there are, if one gets everything."""
    assert jain([5, 5]) == 1.0 and jain([9, 0, 0]) == pytest.approx(1 / 3)


def test_the_page_shows_loans_of_real_connections() -> None:
    """Where they were measured, beside the bare queue, the cheapest first."""
    run = results.load(readme.PAGE.parent / shown.PICTURES / readme.NUMBERS)
    section = Section("loans", ["pool"], key="loans", floor=FLOOR)
    section.measure(
        series_of(**{"redis, a loan": [2e-6, 2e-6], FLOOR: [1e-7, 1e-7]}), "each", float
    )
    report = Report("loans", "?", [section])
    run["workloads"]["loans"] = report.as_json()
    lines = shown.block_of(run).splitlines()
    [at] = [n for n, line in enumerate(lines) if line.startswith("a loan of a real")]
    assert lines[at + 2].split() == [*FLOOR.split(), "100", "ns", "1"]
    assert lines[at + 3].split()[-3:] == ["2.00", "µs", "20.00×"]
    docutils.core.publish_string(
        shown.block_of(run),
        writer="null",
        settings_overrides={"halt_level": 2, "report_level": 2},
    )
