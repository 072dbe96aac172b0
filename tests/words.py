"""Words that the project does not use, and what it says instead.

``python -m tests.words`` lists where they stand, with file and line. Files that are
older than the rule may keep as many as ``words_allowed.txt`` says.
``python -m tests.words --lower`` lowers these numbers to what is left.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

__all__ = ["INSTEAD", "allowed", "files", "found", "name", "prose"]

ROOT = Path(__file__).resolve().parents[1]

ALLOWED = Path(__file__).with_name("words_allowed.txt")

#: A pattern for what is not said, and the plain word for it.
INSTEAD = {
    r"[Hh](?:e|im|is|imself)|[Ss]he|[Hh]ers?": "it, its",
    r"[Ww]hoever": "a greenlet that, the caller that",
    r"[Ww]hom": "that, which",
    r"[Tt]hose who|[Ww]ho waits?": "the waiters",
    r"to be had": "available",
    r"(?<!there )(?<!There )(?:is|are) none": "is no ...",
    r"affairs?": "state, task",
    r"(?:say|says|said|saying) goodbye|farewells?": "close",
    r"(?:takes?|took|taking) leave": "close",
    r"without a word": "without sending anything",
    r"parts? with|parted with|parting with": "close",
    r"at the door": "when it is passed",
    r"shall": "must, is to",
    r"[Hh]itherto|[Tt]hereby|[Ww]hereby|[Tt]herein|[Tt]hereof|[Ll]est|[Nn]igh": "",
    r"for ever": "forever, without limit",
    r"in vain": "without success",
    r"knocks?|knocked|knocking": "connect",
    r"die away|dies away|died away": "close",
    r"short way": "fast path",
    r"dooms?|doomed": "reason to close",
    r"grudges?": "time after a failure",
    r"vouch(?:es|ed)?": "keep",
    r"ones and twos": "a few at a time",
    r"none of (?:our|its|his) business": "not handled here",
    r"be so kind|nay|alas|mere": "",
}

_PATTERNS = {
    re.compile(rf"\b(?:{pattern})\b"): plain or "(leave it out)"
    for pattern, plain in INSTEAD.items()
}

#: This file, and its test, name what they forbid.
_EXEMPT = {"tests/words.py", "tests/test_words.py"}


def files() -> Iterator[Path]:
    """All sources and pages."""
    for folder in ("geventpool", "tests", "benchmarks", "docs"):
        for suffix in ("py", "rst"):
            yield from sorted((ROOT / folder).rglob(f"*.{suffix}"))
    yield from sorted(ROOT.glob("*.rst"))
    yield from sorted(ROOT.glob("*.py"))


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The line numbers and texts of comments and strings; every line of a page."""
    text = path.read_text()
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        # From Python 3.12 on the pieces of an f-string are tokens of their own.
        if token.type in (tokenize.COMMENT, tokenize.STRING) or (
            tokenize.tok_name[token.type] == "FSTRING_MIDDLE"
        ):
            yield from enumerate(token.string.splitlines(), token.start[0])


def found(path: Path) -> Iterator[tuple[int, str, str]]:
    """The line, the word and the plain word, for each that is not to be used."""
    if name(path) in _EXEMPT:
        return
    for number, text in prose(path):
        for pattern, plain in _PATTERNS.items():
            for match in pattern.finditer(text):
                yield number, match[0], plain


def name(path: Path) -> str:
    """The path from the root of the repository, with slashes."""
    return path.relative_to(ROOT).as_posix()


def allowed() -> dict[str, int]:
    """How many each file may have; files that are not named may have none."""
    numbers = {}
    for line in ALLOWED.read_text().splitlines():
        number, file = line.split(maxsplit=1)
        numbers[file] = int(number)
    return numbers


def lower() -> None:
    """Write down what is left, and never more than was allowed before."""
    before = allowed()
    left = {name(path): len(list(found(path))) for path in files()}
    lines = [
        f"{min(number, before[file]):3} {file}"
        for file, number in left.items()
        if number and file in before
    ]
    ALLOWED.write_text("".join(f"{line}\n" for line in lines))


def main(arguments: list[str]) -> int:
    """Print all that was found, or lower the numbers."""
    if arguments == ["--lower"]:
        lower()
        return 0
    count = 0
    for path in files():
        for number, word, plain in found(path):
            count += 1
            print(f"{name(path)}:{number}: {word!r}; say: {plain}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
