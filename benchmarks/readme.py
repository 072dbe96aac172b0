"""``python -m benchmarks readme``: measure again what the docs show.

The text between two marks of docs/results/benchmarks.rst is written by this command:
two pictures, two tables, and what they were made with. The numbers are kept
beside the pictures, so that the same text can be written again without measuring
(``--from``), or be compared with a later run.

The pictures are named by paths relative to the page.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import results
from benchmarks.plots import draw
from benchmarks.readme_block import COMMAND, PICTURES, SHOWN, block_of
from benchmarks.report import terminal
from benchmarks.results import Run
from benchmarks.rounds import SCALES, Scale

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results" / "benchmarks.rst"
#: The numbers, beside the pictures.
NUMBERS = "readme.json"

BEGIN, END = ".. benchmarks: begin", ".. benchmarks: end"

WORKLOADS = ("cycle", "loans", "contention", "scaling", "memory")
#: It takes some minutes.
SCALE = Scale("readme", rounds=15, slice=0.02, seconds=0.4, share=0.5)


class NoMarksError(Exception):
    """The file has no marks for the numbers."""


def replaced(text: str, block: str) -> str:
    """Return the text with *block* between its two marks.

    :raises NoMarksError: unless each mark is there once, the first one first.
    """
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end or BEGIN in rest or END in before + after:
        raise NoMarksError(f"needs a line {BEGIN!r} and after it a line {END!r}")
    return f"{before}{begin}\n{block.strip()}\n\n{end}{after}"


def kept(run: Run) -> Run:
    """Return the part of a run that the page is made from."""
    return {
        **run,
        "workloads": {
            name: {
                **workload,
                "figures": [f for f in workload["figures"] if f["name"] in SHOWN],
            }
            for name, workload in run["workloads"].items()
        },
    }


def write(run: Run, page: Path) -> list[Path]:
    """Write a run into a page and its pictures beside it, and return the files.

    :raises NoMarksError: it has no marks; nothing is written.
    """
    text = replaced(page.read_text(encoding="utf-8"), block_of(run))
    folder = page.parent / PICTURES
    written = list(draw(run, folder, SHOWN))
    results.save(folder / NUMBERS, kept(run))
    page.write_text(text, encoding="utf-8")
    return [*written, folder / NUMBERS, page]


def main(arguments: list[str]) -> int:
    """Run ``python -m benchmarks readme``; return 0 if the page was written."""
    from benchmarks.__main__ import measured

    parser = argparse.ArgumentParser(COMMAND)
    scales = {SCALE.name: SCALE, **SCALES}
    failed: list[str] = []
    parser.add_argument("--scale", choices=scales, default=SCALE.name)
    parser.add_argument("--page", type=Path, default=PAGE, help="the file to write")
    parser.add_argument(
        "--from",
        dest="run",
        type=Path,
        metavar="FILE",
        help=f"do not measure; take a saved run, such as {NUMBERS} beside the pictures",
    )
    options = parser.parse_args(arguments)
    console = terminal()
    try:
        # Bad marks are an error before the measurement, which takes minutes.
        replaced(options.page.read_text(encoding="utf-8"), "")
        if options.run:
            run = results.load(options.run)
        else:
            scale = scales[options.scale]
            run, failed = measured(list(WORKLOADS), scale, console, ["readme"])
        if failed:
            return 1
        for path in write(run, options.page):
            console.print(str(path))
    except (OSError, NoMarksError, results.NotARunError) as error:
        parser.exit(2, f"{error}\n")
    return 0
