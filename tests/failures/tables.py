"""Tables whose cells are as short as can be."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import chain, zip_longest

from tests.failures.oracles import Outcome, broken
from tests.failures.sites import LIMIT

#: Characters of the longest line, and between two columns.
LONGEST, GAP = 96, 2

#: What is not said in the cells.
LEGEND = (
    "The number is how many requests failed; the words before it tell what did not"
    f" hold. No words: all {LIMIT} places kept, never more than {LIMIT} sockets, no"
    " wrong reply."
)


def brief(outcome: Outcome) -> str:
    """What :data:`LEGEND` does not say already, and how many requests failed."""
    if outcome.given_up:
        return outcome.given_up
    account = outcome.account
    parts = [_shortened(what) for what in broken(outcome)]
    if account.refused:
        parts.append(f"{account.refused} refused")
    return ", ".join([*parts, str(account.failed)])


def _shortened(what: str) -> str:
    """Words of an oracle without the limit and what goes without saying."""
    what = what.removesuffix(f" for {LIMIT}").replace(f" of {LIMIT} places", " places")
    return what.replace(" dead connections lent", " dead lent")


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """The table as Markdown, which wraps cells by itself."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def rst(head: list[str], rows: list[list[str]]) -> str:
    """The table as reStructuredText, whose cells may have several lines."""
    columns = _fitted([list(column) for column in zip(head, *rows)])
    widths = [_width(column) for column in columns]
    rule = _line(["=" * width for width in widths], widths)
    first, *others = (_row(cells, widths) for cells in zip(*columns))
    return "\n".join([rule, *first, rule, *chain(*others), rule])


def _fitted(columns: list[list[str]]) -> list[list[str]]:
    """The columns, with cells broken into lines so that all fit if words allow it.

    The first is left as it is: where it has words, a row begins. Of the others that one
    is made narrower which costs the fewest lines and saves the most characters.
    """
    fitted = columns
    words = [" ".join(column).split() for column in columns]
    while _length(fitted) > LONGEST:
        choices = [
            [*fitted[:place], _wrapped(columns[place], width - 1), *fitted[place + 1 :]]
            for place, width in enumerate(map(_width, fitted))
            if place and width > max(map(len, words[place]))
        ]
        if not choices:
            break
        fitted = min(choices, key=lambda choice: (_height(choice), _length(choice)))
    return fitted


def _wrapped(column: list[str], width: int) -> list[str]:
    return [textwrap.fill(cell, width, break_on_hyphens=False) for cell in column]


def _width(column: Sequence[str]) -> int:
    return max(len(line) for cell in column for line in cell.split("\n"))


def _length(columns: Sequence[Sequence[str]]) -> int:
    return sum(map(_width, columns)) + GAP * (len(columns) - 1)


def _height(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(cell.count("\n") + 1 for cell in row) for row in zip(*columns))


def _row(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    parts = zip_longest(*(cell.split("\n") for cell in cells), fillvalue="")
    return [_line(each, widths) for each in parts]


def _line(parts: Sequence[str], widths: Sequence[int]) -> str:
    padded = (f"{part:{width}}" for part, width in zip(parts, widths))
    return (" " * GAP).join(padded).rstrip()
