"""Mistakes put into the code one at a time, to see whether the tests notice them.

The mistakes are the text files of this folder::

    file: geventpool/pool.py
    tests: tests/test_waiting.py tests/test_release.py

    # a poller does not count as waiting
    ~ len(ledger.line) + len(self._pollers) => len(ledger.line)
    # a goodbye that fails leaves the socket open
    -            log.debug("%r was not closed cleanly: %r", entry.conn, error)
    -            silently(self.connector.terminate, entry.conn)
    +            log.debug("%r was not closed cleanly: %r", entry.conn, error)

``file`` and ``tests`` hold until the next such line. A line that begins with ``#``
begins a mistake and says what it is. With ``~`` a part of a line is replaced by what
follows `` => ``; the lines with ``-`` are replaced by the lines with ``+`` that follow.
What is replaced stands in the file exactly once, or, where the code has moved, exactly
once in the package. A mistake may have several replacements in one file.

``python -m tests.mutants`` tries them; see ``__main__.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ROOT", "Mutant", "Replacement", "read", "read_all"]

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "geventpool"


@dataclass
class Replacement:
    """A text and what is put in its place."""

    old: str = ""
    new: str = ""


@dataclass
class Mutant:
    """One mistake.

    :param where: the list and the line in it, such as ``core.txt:12``.
    :param path: of the file that is changed, relative to the repository.
    :param tests: what should notice it: arguments for pytest, nearest first.
    """

    where: str
    text: str
    path: str
    tests: list[str]
    replacements: list[Replacement] = field(default_factory=list)

    def locate(self, root: Path) -> Path:
        """The file to change below *root*.

        :raises ValueError: there is none in which each text stands exactly once.
        """
        named = root / self.path
        if named.exists() and self._fits(named.read_text()):
            return named
        others = sorted((root / PACKAGE).rglob("*.py"))
        found = [path for path in others if self._fits(path.read_text())]
        if len(found) != 1:
            texts = [part.old for part in self.replacements]
            raise ValueError(
                f"{self.where}: {self.text}: {len(found)} files, instead of one, have "
                f"exactly once what is to be replaced: {texts}"
            )
        return found[0]

    def _fits(self, source: str) -> bool:
        return bool(self.replacements) and all(
            source.count(part.old) == 1 for part in self.replacements
        )

    def applied_to(self, source: str) -> str:
        """*source* with the mistake in it."""
        for part in self.replacements:
            source = source.replace(part.old, part.new)
        return source


def read(path: Path) -> list[Mutant]:
    """The mistakes of one list.

    :raises ValueError: a line is not one of those that a list may have.
    """
    mutants: list[Mutant] = []
    settings = {"file": "", "tests": ""}
    last = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        mark, rest = line[:1], line[1:]
        name, _, value = line.partition(": ")
        if mark == "#":
            where = f"{path.name}:{number}"
            tests = settings["tests"].split()
            mutants.append(Mutant(where, rest.strip(), settings["file"], tests))
        elif mark == "~":
            old, _, new = rest[1:].partition(" => ")
            mutants[-1].replacements.append(Replacement(old, new))
        elif mark == "-":
            if last != "-":
                mutants[-1].replacements.append(Replacement())
            mutants[-1].replacements[-1].old += rest + "\n"
        elif mark == "+":
            mutants[-1].replacements[-1].new += rest + "\n"
        elif name in settings:
            settings[name] = value
        elif line:
            raise ValueError(f"{path.name}:{number}: not understood: {line!r}")
        last = mark
    return mutants


def read_all() -> list[Mutant]:
    """The mistakes of all lists, by name of the list."""
    lists = sorted(Path(__file__).parent.glob("*.txt"))
    return [mutant for path in lists for mutant in read(path)]
