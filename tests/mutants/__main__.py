"""Try the mistakes: ``python -m tests.mutants [--jobs N] [--limit SECONDS] [WORD...]``.

Each is put into a copy of the tree, and its tests are run there until one fails. With
words, only mistakes are tried whose list, file or text contains one of them. A run that
meets its time limit counts as noticed and is listed: a test that fails says more. A
mistake whose lines are not in the file any more is lost. Exit status 1: fewer than 95 %
were noticed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutants import ROOT, Mutant, read_all

NOTICED, HUNG, SURVIVED, LOST = "noticed", "hung", "survived", "lost"
#: The part of the mistakes that must be noticed.
ENOUGH = 0.95

_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "build", "dist"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=float, default=120, help="seconds for one")
    options = parser.parse_args()
    chosen = [mutant for mutant in read_all() if _is_meant(mutant, options.words)]
    results = dict(_try_all(chosen, options.jobs, options.limit))
    _print_table(chosen, results)
    noticed = sum(result in (NOTICED, HUNG) for result in results.values())
    return 0 if noticed >= ENOUGH * len(chosen) else 1


def _is_meant(mutant: Mutant, words: list[str]) -> bool:
    said = f"{mutant.where} {mutant.path} {mutant.text}"
    return not words or any(word in said for word in words)


def _try_all(
    mutants: list[Mutant], jobs: int, limit: float
) -> Iterable[tuple[str, str]]:
    with tempfile.TemporaryDirectory(prefix="mutants") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copy = Path(folder, str(number))
            shutil.copytree(ROOT, copy, ignore=_LEFT_OUT, symlinks=True)
            copies.put(copy)

        def attempt(mutant: Mutant) -> tuple[str, str]:
            copy = copies.get()
            try:
                began = time.monotonic()
                result = _try(mutant, copy, limit)
            finally:
                copies.put(copy)
            took = time.monotonic() - began
            print(
                f"{result:8} {took:5.1f} s  {mutant.where}: {mutant.text}", flush=True
            )
            return mutant.where, result

        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(attempt, mutants)


def _try(mutant: Mutant, copy: Path, limit: float) -> str:
    try:
        target = mutant.locate(copy)
    except ValueError as error:
        print(error)
        return LOST
    before = target.read_text()
    target.write_text(mutant.applied_to(before))
    try:
        return run(mutant.tests, copy, limit)
    finally:
        target.write_text(before)


def run(tests: list[str], copy: Path, limit: float) -> str:
    """How the tests end in that folder: one of the results above."""
    options = ["-x", "-q", "-p", "no:cacheprovider"]
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=copy,
        # Without this a file changed twice in a second would be run as it was before.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # The servers that tests start are ended with them.
        start_new_session=True,
    )
    try:
        status = run.wait(limit)
    except subprocess.TimeoutExpired:
        return HUNG
    finally:
        _end(run)
    # 0: all passed; 1: some failed; 2 to 4: an import failed.
    return SURVIVED if status == 0 else NOTICED


def _end(run: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(run.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    run.wait()


def _print_table(mutants: list[Mutant], results: dict[str, str]) -> None:
    rows: dict[str, Counter[str]] = {}
    for mutant in mutants:
        for name in (mutant.path.removeprefix("geventpool/"), "all"):
            rows.setdefault(name, Counter())[results[mutant.where]] += 1
    rows["all"] = rows.pop("all", Counter())
    print(f"\n{'file':32} mistakes noticed hung survived lost")
    for name, row in rows.items():
        print(
            f"{name:32} {row.total():8} {row[NOTICED]:7} {row[HUNG]:4} "
            f"{row[SURVIVED]:8} {row[LOST]:4}"
        )
    for mutant in mutants:
        if results[mutant.where] != NOTICED:
            print(f"{results[mutant.where]}: {mutant.where} {mutant.text}")


if __name__ == "__main__":
    sys.exit(main())
