"""Runs are saved, compared, drawn and shown in the docs as they are."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import threading
from pathlib import Path

import docutils.core
import gevent
import pytest

from benchmarks import metadata, page, plots, results
from benchmarks.__main__ import main
from benchmarks.adapters import GENERATOR
from benchmarks.adapters.ours import generator
from benchmarks.contention import POSSIBLE
from benchmarks.figures import Figure
from benchmarks.report import Report
from benchmarks.rounds import Series, interleave, is_unsteady

OURS, PEER, FLOOR = "geventpool", "QueuePool", "gevent queue"


# The method


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


# Progress


def test_a_file_gets_tables_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress is drawn on a terminal and nowhere else."""
    interleave({OURS: lambda: 1}, rounds=1, label="loans")
    assert capsys.readouterr() == ("", "")


def test_nothing_is_drawn_during_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A display that refreshes itself would run in what is timed."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    before = threading.active_count()
    series = interleave({OURS: threading.active_count}, rounds=1)
    assert series[OURS].samples == [before]


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
    """A clock that changes its speed, and other work."""
    governor = tmp_path / "cpu0/cpufreq/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("powersave\n")
    monkeypatch.setattr(metadata, "SYS_CPU", tmp_path)
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 9.0, 9.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    warned = " ".join(metadata.warnings())
    for words in ("powersave", "load 9.0 on 2 cores"):
        assert words in warned


@pytest.mark.parametrize("text", ["", "[]", '{"some": 1}', '{"format": 99}'])
def test_what_is_no_run_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the file."""
    other = tmp_path / "other.json"
    other.write_text(text)
    with pytest.raises(SystemExit) as refused:
        main(["--from", str(other)])
    assert refused.value.code == 2
    assert "other.json" in capsys.readouterr().err


# Figures


def test_a_latency_curve_tells_what_part_of_the_waits_is_shorter() -> None:
    """Half of the waits are below the median, and the curve ends at the longest."""
    waits = [float(number) for number in range(1000, 0, -1)]
    [curve] = Figure.of_waits("f", "t", "c", {OURS: waits, PEER: []}).curves
    middle = min(curve.x, key=lambda part: abs(part - 0.5))
    assert curve.y[curve.x.index(middle)] == int((1 - middle) * 1000) + 1
    assert curve.x[0] == 1 and curve.x[-1] == 0.001 and curve.y[-1] == 1000


def test_a_figure_is_the_same_after_it_was_saved() -> None:
    """Pictures can be drawn from the file alone."""
    figure = figure_of_lines()
    report = Report("cycle", "?", figures=[figure])
    run = results.run_of({}, "tiny", [report])
    assert list(results.figures(json.loads(json.dumps(run)))) == [figure]


def figure_of_lines() -> Figure:
    """Two pools of two sizes."""
    series = {name: Series(name, [1e-6, 2e-6, 3e-6]) for name in (OURS, PEER)}
    absent = {FLOOR: Series[float](FLOOR, error="failed")}
    sizes = {100: series, 10: {**series, **absent}}
    return Figure.of_sizes("sizes", "Alike", "c", ("size", "time"), sizes, float)


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
    command = "python -m benchmarks cycle --json a/b.json --quick --plots=c --page d"
    assert plots.shown_command(command) == "python -m benchmarks cycle --quick"


def test_a_pool_looks_the_same_in_every_picture_and_like_no_other() -> None:
    """Whatever is added to its name; what nobody thought of has a look too."""
    assert (
        plots.style_of("QueuePool, no reset")["color"] == plots.style_of(PEER)["color"]
    )
    pools = [OURS, PEER, "redis Blocking", "redis Pool", "PooledDB", "gsocketpool"]
    pools += ["pymysql-pool", "geventhttpclient", "psycopg_pool"]
    for what in ("color", "marker"):
        assert len({plots.style_of(name)[what] for name in pools}) == len(pools)
    assert plots.style_of("unheard of")["color"] == plots.SPARE[0]


def test_a_pool_set_up_in_another_way_is_told_from_itself() -> None:
    """The same colour and another line, and a name that fits beside the picture."""
    own = plots.style_of(OURS)
    other = plots.style_of(f"{OURS}, twenty dials at a time")
    assert own["color"] == other["color"] and own["linestyle"] != other["linestyle"]
    assert max(map(len, other["label"].splitlines())) <= plots.LEGEND


# The page


TEXT = f"before\n\n{page.BEGIN}\nold\n{page.END}\n\nafter\n"


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    """Everything around stays, and the same block again changes nothing."""
    new = page.replaced(TEXT, "new")
    assert new == f"before\n\n{page.BEGIN}\n\nnew\n\n{page.END}\n\nafter\n"
    assert page.replaced(new, "new") == new


@pytest.mark.parametrize(
    "text",
    ["", f"{page.BEGIN}\n", f"{page.END}\n{page.BEGIN}\n", TEXT + TEXT],
)
def test_a_text_without_its_marks_is_refused(text: str) -> None:
    """Nobody guesses where the numbers go."""
    with pytest.raises(results.WrongFileError):
        page.replaced(text, "new")


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all that needs no server, as small as can be, in a file."""
    path = tmp_path_factory.mktemp("run") / "run.json"
    assert main([*SERVERLESS, "--scale", "tiny", "--json", str(path)]) == 0
    return path


SERVERLESS = ("cycle", "contention", "scaling", "hangup_cost")


def test_every_workload_runs_and_saves_its_numbers(tiny_run: Path) -> None:
    """Each workload has promises and numbers, those of our pool among them."""
    run = results.load(tiny_run)
    assert tuple(run["workloads"]) == SERVERLESS and run["scale"] == "tiny"
    assert run["packages"]["gevent"] and "cycle" in run["command"]
    for name, workload in run["workloads"].items():
        assert workload["targets"], name
        for section in workload["sections"]:
            assert name == "hangup_cost" or OURS in section["numbers"]
            assert OURS not in section["failed"]
            assert section["floor"] in section["numbers"]
            assert section["peer"] not in (OURS, FLOOR, GENERATOR, POSSIBLE)
    names = [figure.name for figure in results.figures(run)]
    assert len(set(names)) == len(names) >= 4


def test_the_page_is_written_from_a_run(tmp_path: Path, tiny_run: Path) -> None:
    """Good markup, two pictures that are there, tables; again the same."""
    target = tmp_path / "benchmarks.rst"
    target.write_text(TEXT)
    assert main(["--from", str(tiny_run), "--page", str(target)]) == 0
    text = target.read_text()
    docutils.core.publish_string(
        text, writer="null", settings_overrides={"halt_level": 2, "report_level": 2}
    )
    images = [line.split()[-1] for line in text.splitlines() if ".. image::" in line]
    assert len(images) == 2
    assert all((tmp_path / path).is_file() for path in images)
    assert f'"{OURS}"' in text and f"gevent {gevent.__version__}" in text
    kept = tmp_path / page.FOLDER / page.NUMBERS
    assert main(["--from", str(kept), "--page", str(target)]) == 0
    assert target.read_text() == text


def test_a_peer_that_failed_stands_in_the_page_as_such(tiny_run: Path) -> None:
    """Its reason is said below the table."""
    run = results.load(tiny_run)
    [section] = run["workloads"]["cycle"]["sections"]
    section["remarks"].append(f"{PEER} failed: OSError: it broke")
    assert f"* {PEER} failed: OSError: it broke" in page.block_of(run).splitlines()


def test_figures_are_drawn_from_a_saved_run(tiny_run: Path, tmp_path: Path) -> None:
    """Nothing is measured, and the folder is made."""
    run = results.load(tiny_run)
    run["workloads"]["contention"]["figures"][1:] = []
    results.save(tmp_path / "run.json", run)
    folder = tmp_path / "new" / "dir"
    assert main(["--from", str(tmp_path / "run.json"), "--plots", str(folder)]) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["waits-job.png", "waits-job.svg"]


def test_the_page_shows_what_is_there() -> None:
    """The block in the page is the one its kept numbers give."""
    kept = results.load(page.PAGE.parent / page.FOLDER / page.NUMBERS)
    text = page.PAGE.read_text()
    assert page.replaced(text, page.block_of(kept)) == text
    for name in page.PICTURES:
        assert (page.PAGE.parent / page.FOLDER / f"{name}.svg").is_file()


def test_the_readme_has_the_numbers_where_its_pictures_are_not_shown() -> None:
    """A package index has the README alone."""
    kept = results.load(page.PAGE.parent / page.FOLDER / page.NUMBERS)
    text = page.README.read_text()
    assert page.described(text, kept) == text
    for alt in re.findall(r":alt: (.*)", page.block_of(kept)):
        assert f":alt: {alt}\n" in text
