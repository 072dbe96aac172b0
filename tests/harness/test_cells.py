"""What the table says, what hangs, and when the soak stops."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import docutils.core
import pytest
from docutils import nodes

from benchmarks import page, results
from tests.apart import GivenUpError, answer_of
from tests.failures import __main__ as program
from tests.failures import cells, soak, tables
from tests.failures.contestants import OurSockets
from tests.failures.load import Account
from tests.failures.oracles import Outcome
from tests.failures.peers import CONTESTANTS
from tests.failures.sites import LIMIT
from tests.failures.storms import STORMS


def outcome(**more: Any) -> Outcome:
    """One of which all is well, unless told otherwise."""
    return Outcome("restart", "tcp", 1, **{"places": LIMIT, "answers": LIMIT, **more})


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (outcome(), f"all {LIMIT} places, 0 errors"),
        (
            outcome(account=Account(errors={"OSError": 1}, refused=2)),
            f"all {LIMIT} places, 1 error, 2 refused",
        ),
        (
            outcome(places=LIMIT - 3, answers=LIMIT - 3),
            f"3 of {LIMIT} places lost, 0 errors",
        ),
        (
            outcome(account=Account(wrong=[("a", "b")] * 12, asleep=2)),
            f"all {LIMIT} places, 2 asleep forever, 12 wrong replies, 0 errors",
        ),
        (outcome(given_up="hung, given up after 30 s"), "hung, given up after 30 s"),
    ],
)
def test_a_cell_says_what_happened_in_few_words(found: Outcome, words: str) -> None:
    """The gravest first, and the errors in the end."""
    assert cells.words(found) == words
    assert words in cells.details(found)


def test_an_outcome_survives_its_way_between_processes() -> None:
    """Every field of it."""
    account = Account(errors={"OSError": 3}, wrong=[("a", "b")], longest_wait=0.5)
    sent = outcome(account=account, left={"timers": 1}, undocumented=["KeyError"])
    assert cells.from_fields(json.loads(cells.to_json(sent))) == sent


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit('no good')", "crashed: no good"),
        ("print('{')", "crashed: status 0"),
        ("import os; os.kill(os.getpid(), 9)", "crashed: status -9"),
        ("import time; time.sleep(60)", "hung, given up after 0 s"),
    ],
)
def test_what_hangs_is_given_up(code: str, reason: str) -> None:
    """With its process, in its time; a crash is told of as one."""
    with pytest.raises(GivenUpError, match=reason):
        answer_of(["-c", code], 0.4 if "sleep" in code else 20)


def test_the_last_line_of_a_process_is_its_answer() -> None:
    """Whatever else it prints; its temporary files are removed."""
    code = "import json, tempfile as t; print(); print(json.dumps([t.mkdtemp()]))"
    (folder,) = answer_of(["-c", code], 20)
    assert not Path(folder).exists()


def test_a_cell_that_is_given_up_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of what was measured."""

    def hang(arguments: list[str], seconds: float) -> None:
        assert "--harsh" in arguments and seconds > 1
        raise GivenUpError("hung")

    monkeypatch.setattr(cells, "answer_of", hang)
    found = cells.run_apart("kills", "tcp", 3, 1.0, harsh=True)
    assert found == Outcome("kills", "tcp", 3, given_up="hung")


def test_one_cell_runs_in_a_process_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the command that the documentation gives; peers are among those it knows."""
    words = ["kills", "--pool", "tcp", "--seconds", "0.1", "--seed", "5"]
    assert program.main(words) == 0
    said = capsys.readouterr().out
    assert f"all {LIMIT} places" in said and "geventpool" in said
    assert tables.LEGEND in " ".join(said.split()) and "\nkills  0\n" in said
    assert {"queuepool", "pooleddb", "gsocketpool"} < set(CONTESTANTS)
    with pytest.raises(SystemExit):
        program.main(["drizzle"])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (outcome(), "0"),
        (outcome(account=Account(errors={"OSError": 1, "KeyError": 15})), "16"),
        (
            outcome(account=Account(errors={"OSError": 1}, refused=332)),
            "332 refused, 1",
        ),
        (
            outcome(places=LIMIT - 7, answers=LIMIT - 8, seen_by_proxy=40),
            "40 sockets, 7 places lost, 1 dead lent, 0",
        ),
        (
            outcome(account=Account(wrong=[("a", "b")] * 35, asleep=2)),
            "35 wrong replies, 2 asleep forever, 0",
        ),
        (outcome(given_up="hung, given up after 30 s"), "hung, given up after 30 s"),
    ],
)
def test_a_table_says_what_did_not_hold_in_fewer_words(
    found: Outcome, words: str
) -> None:
    """And how many requests failed; that all is well its legend says."""
    assert tables.brief(found) == words


HEAD = ["storm", "geventpool .redis, waiting", *["pymysql-pool"] * 4]
ROWS = [
    [
        "kills",
        "0",
        *["40 sockets, 16 places lost, 40 refused, 40"] * 3,
        "half-open " * 4 + "7",
    ],
    ["kill-some", *["16"] * 4, "2427 refused, 785"],
]


def test_a_table_is_markup_of_so_many_characters() -> None:
    """What a reader of the markup finds in its cells is what was put there."""
    drawn = tables.rst(HEAD, ROWS)
    assert max(map(len, drawn.splitlines())) <= tables.LONGEST
    table = docutils.core.publish_doctree(drawn, settings_overrides={"halt_level": 2})
    found = [
        [" ".join(cell.astext().split()) for cell in row.findall(nodes.entry)]
        for row in table.findall(nodes.row)
    ]
    assert found == [HEAD, *ROWS]
    assert tables.markdown(HEAD, ROWS).count("\n") == 3


def test_a_table_has_as_few_lines_as_fit() -> None:
    """What is short stays in one, and no word is broken, though all be too wide."""
    short = tables.rst(["storm", "pool"], [["kills", "7 refused, 0"]])
    assert short.count("\n") == 3 + 1
    # Three rules, the head, and two lines: once one cell is broken, the others may be.
    lost = ROWS[0][2]
    rows = [["kills", lost, lost, lost]]
    assert tables.rst(["storm", *"abc"], rows).count("\n") + 1 == 3 + 1 + 2
    tight = tables.rst(["storm", "pool"], [["kills", "x" * 80 + " half-open"]])
    assert "\n       half-open\n" in tight
    endless = "x" * tables.LONGEST
    wide = tables.rst(["the storm", "pool"], [["kills", f"crashed: {endless}"]])
    assert endless in wide and "the storm" in wide


def test_the_table_has_columns_of_both_sites() -> None:
    """Of the pools that the documentation compares, each once."""
    sites = [CONTESTANTS[name].site for name in program.COLUMNS]
    assert sites == ["redis"] * 5 + ["mysql"] * 6
    assert len(set(program.COLUMNS)) == len(sites)


def test_the_tables_of_a_page_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those between its marks; a page without marks is refused before anything runs."""
    made: list[str] = []

    def run_apart(storm: str, pool: str, **options: Any) -> Outcome:
        made.append(pool)
        return replace(outcome(), storm=storm, pool=pool)

    monkeypatch.setattr(cells, "run_apart", run_apart)
    written = tmp_path / "page.rst"
    written.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    words = ["kills", "--pool", "redis", "--pool", "mysql", "--page", str(written)]
    assert program.main(words) == 0
    text = written.read_text()
    assert (
        text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    )
    assert text.count("\nkills  0\n") == 2 and made == ["redis", "mysql"]
    written.write_text("no marks")
    with pytest.raises(results.WrongFileError):
        program.main(words)
    assert len(made) == 2


class Forgetful(OurSockets):
    """Loses places."""

    name = "forgetful"

    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self.pool.transfer(self.pool.acquire(), None)

    def close(self) -> None:
        self.pool.close(0)


def test_the_soak_stops_at_the_first_broken_oracle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says how to see it again."""
    monkeypatch.setitem(CONTESTANTS, "forgetful", Forgetful)
    bath = soak.Soak(random.Random(1), ["forgetful"], ["kills"], longest=0.3)
    why = bath.run(60)
    assert bath.storms == 1
    assert why is not None and f"1 of {LIMIT} places lost" in why
    assert "python -m tests.failures kills --pool forgetful --seed" in why
    assert "forgetful" in capsys.readouterr().out


def test_the_soak_ends_in_its_time() -> None:
    """With nothing to say, if nothing has broken."""
    bath = soak.Soak(random.Random(1), ["tcp"], ["kills"])
    assert bath.run(0) is None and bath.storms == 0


def test_the_soak_stops_when_something_grows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weighed after so many storms, against what it was when it was warm."""
    monkeypatch.setattr(soak, "WEIGHED_EVERY", 1)
    monkeypatch.setattr(soak, "WARM_AFTER", 1)
    monkeypatch.setattr(soak, "MORE_BYTES", -(2**40))
    why = soak.Soak(random.Random(1), ["tcp"], ["kills"], longest=0.31).run(60)
    assert why is not None and why.endswith("MB more")
    said = capsys.readouterr().out
    assert "2 storms: " in said
    # Each with a seed of its own.
    seeds = [line.partition("seed")[2][:7] for line in said.splitlines()[:3:2]]
    assert len(set(seeds)) == 2


def test_what_grows_is_told() -> None:
    """Beyond its slack."""
    before = soak.Weight.take()
    assert before.excess_over(before) == []
    heavier = soak.Weight.take()
    heavier.bytes += soak.MORE_BYTES + 2**20
    heavier.footprint.blocks += soak.MORE_BLOCKS + 1000
    heavier.footprint.greenlets += 1
    assert len(heavier.excess_over(before)) == 3


def test_every_storm_has_a_row() -> None:
    """By a name that can be said on the command line."""
    assert all(name == storm.name for name, storm in STORMS.items())
    assert len({storm.title for storm in STORMS.values()}) == len(STORMS)
