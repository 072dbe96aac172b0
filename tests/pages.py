"""The pages of the documentation, and the code blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

__all__ = ["README", "ROOT", "Block", "bare_blocks", "blocks", "name", "pages"]

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.rst"

#: What a page needs before its first example, and does not show.
SETUP = ".. setup for the examples"

_START = re.compile(r"^( *)(?:\* +)?\.\. code-block:: *(\S*)$")


@dataclass(frozen=True)
class Block:
    """One code block.

    :param language: what the page calls it, such as "python".
    :param line: the number of its first line, from 1.
    :param source: its text, without the indentation.
    """

    language: str
    line: int
    source: str


def pages() -> list[Path]:
    """All pages, those in the root of the repository first."""
    return [*sorted(ROOT.glob("*.rst")), *sorted((ROOT / "docs").rglob("*.rst"))]


def name(page: Path) -> str:
    """The path from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The code blocks of a page in order, its hidden setup included."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        start = _START.match(line)
        if not start and line != SETUP:
            continue
        indentation = len(start[1]) if start else 0
        body = []
        for each in lines[number + 1 :]:
            if each.strip() and len(each) - len(each.lstrip()) <= indentation:
                break
            body.append(each)
        source = dedent("\n".join(body)).strip("\n") + "\n"
        first = number + 2 + next(i for i, each in enumerate(body) if each.strip())
        yield Block(start[2] if start else "python", first, source)


def bare_blocks(page: Path) -> Iterator[int]:
    """The numbers of the lines that begin a block without a language."""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        stripped = line.strip()
        if stripped.endswith("::") and not stripped.startswith(".. "):
            yield number
