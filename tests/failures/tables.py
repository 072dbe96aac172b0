"""Tables whose cells are sentences."""

from __future__ import annotations

import textwrap
from itertools import zip_longest

#: Characters of the first column, and of the others.
FIRST, OTHERS = 17, 14


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """The table as Markdown, which wraps cells by itself."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def rst(head: list[str], rows: list[list[str]]) -> str:
    """The table as reStructuredText, with cells of several lines."""
    widths = [FIRST, *[OTHERS] * (len(head) - 1)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule, *_row(head, widths), rule.replace("-", "=")]
    for row in rows:
        lines += [*_row(row, widths), rule]
    return "\n".join(lines)


def _row(cells: list[str], widths: list[int]) -> list[str]:
    wrapped = [textwrap.wrap(cell, width) for cell, width in zip(cells, widths)]
    return [
        "| " + " | ".join(f"{part:{w}}" for part, w in zip(parts, widths)) + " |"
        for parts in zip_longest(*wrapped, fillvalue="")
    ]
