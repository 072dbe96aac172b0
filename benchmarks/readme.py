"""
``python -m benchmarks readme``: measure again what README.rst shows, and put it there.

Between its two marks README.rst belongs to this file: two pictures, a table, and what
they were made with. The numbers stay beside the pictures, so that the same can be
written again without measuring (``--from``), or be compared with a later run.

The pictures are named by paths within the repository, which is where they can be seen;
a package index shows the sentence that stands for each instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks import saved
from benchmarks.plots import draw
from benchmarks.report import terminal
from benchmarks.rounds import SCALES, Scale
from benchmarks.saved import Run
from benchmarks.shown import COMMAND, PICTURES, SHOWN, block_of

ROOT = Path(__file__).parent.parent
README = ROOT / "README.rst"
#: Beside the pictures, for whoever wants to compare.
NUMBERS = "readme.json"

BEGIN, END = ".. benchmarks: begin", ".. benchmarks: end"

WORKLOADS = ("cycle", "contention", "throughput", "growth", "memory")
#: A few minutes, most of them for what has to be repeated.
SCALE = Scale("readme", rounds=15, slice=0.02, seconds=0.4, share=0.5)


class NoMarksError(Exception):
    """The file does not say where the numbers go."""


def replaced(text: str, block: str) -> str:
    """
    The text with ``block`` between its two marks.

    :raises NoMarksError: unless each mark is there once, the first one first.
    """
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end or BEGIN in rest or END in before + after:
        raise NoMarksError(f"needs a line {BEGIN!r} and after it a line {END!r}")
    return f"{before}{begin}\n{block.strip()}\n\n{end}{after}"


def kept(run: Run) -> Run:
    """As much of a run as README.rst is made from, without the rest."""
    return {
        **run,
        "workloads": {
            name: {
                **workload,
                "figures": [each for each in workload["figures"] if _is_shown(each)],
                "sections": [{**each, "data": {}} for each in workload["sections"]],
            }
            for name, workload in run["workloads"].items()
        },
    }


def _is_shown(figure: dict[str, Any]) -> bool:
    return figure["name"] in SHOWN


# The command.


def write(run: Run, readme: Path) -> list[Path]:
    """
    Put a run into a README and its pictures beside it; the same run, the same files.

    :raises NoMarksError: if it does not say where; then nothing is written.
    """
    text = replaced(readme.read_text(encoding="utf-8"), block_of(run))
    folder = readme.parent / PICTURES
    written = list(draw(run, folder, SHOWN))
    saved.save(folder / NUMBERS, kept(run))
    readme.write_text(text, encoding="utf-8")
    return [*written, folder / NUMBERS, readme]


def main(arguments: list[str]) -> int:
    """``python -m benchmarks readme``; 0 if README.rst was written."""
    from benchmarks.__main__ import measured

    parser = argparse.ArgumentParser(COMMAND)
    scales = {SCALE.name: SCALE, **SCALES}
    failed: list[str] = []
    parser.add_argument("--scale", choices=scales, default=SCALE.name)
    parser.add_argument("--readme", type=Path, default=README, help="the file to write")
    parser.add_argument(
        "--from",
        dest="run",
        type=Path,
        metavar="FILE",
        help=f"do not measure, take a saved run, as {PICTURES / NUMBERS}",
    )
    options = parser.parse_args(arguments)
    console = terminal()
    try:
        # Before minutes are spent for a file that has no place for them.
        replaced(options.readme.read_text(encoding="utf-8"), "")
        if options.run:
            run = saved.load(options.run)
        else:
            scale = scales[options.scale]
            run, failed = measured(list(WORKLOADS), scale, console, ["readme"])
        if failed:
            return 1
        for path in write(run, options.readme):
            console.print(str(path))
    except (OSError, NoMarksError, saved.NotARunError) as error:
        parser.exit(2, f"{error}\n")
    return 0
