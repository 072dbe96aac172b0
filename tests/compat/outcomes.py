"""What becomes of a driver's own tests with its pools, and with ours.

Knows how a source distribution is fetched, how a run is begun and waited for, and how
two runs are compared; nothing of any driver.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.compat.environment import REPOSITORY, pip

__all__ = ["Outcomes", "Run", "compare", "source"]

#: By the name of the test: how it ended, and in what words.
Outcomes = dict[str, tuple[str, str]]


def source(name: str, version: str, folder: Path) -> Path:
    """The unpacked source distribution of a package, as its authors publish it."""
    archives = folder / "archives"
    options = ("--no-deps", "--no-binary", name, "--dest", archives)
    pip(sys.executable, "download", *options, f"{name}=={version}")
    with tarfile.open(next(archives.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path != archives and path.is_dir())


class Run:
    """One run of a suite, in a process of its own, begun at once.

    :param str pools: ``"stock"`` or ``"ours"``.
    :param suite: the folder to run it in.
    :param python: the interpreter, with its options.
    :param str script: a file beside this one, which runs the tests.
    :param arguments: for it.
    :param over: called when it has ended.
    :param more: for its environment.
    """

    def __init__(
        self,
        pools: str,
        suite: Path,
        python: tuple[str | Path, ...],
        script: str,
        arguments: tuple[str, ...],
        over: Callable[[], object] = lambda: None,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._pools = pools
        self._over = over
        self._file = suite / f"{pools}.json"
        self._log = suite / f"{pools}.log"
        settings = {
            "POOLS": pools,
            "OUTCOMES": str(self._file),
            "PYTHONPATH": str(REPOSITORY),
            **more,
        }
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [*python, Path(__file__).with_name(script), *arguments],
                cwd=suite,
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def outcomes(self) -> Outcomes:
        """What became of each test, when all are over."""
        status = self._process.wait()
        self._over()
        # 1: some tests failed; or none was run.
        if status not in (0, 1) or not self._file.exists():
            sys.exit(
                f"the run with {self._pools} failed:\n{self._log.read_text()[-5000:]}"
            )
        outcomes: Outcomes = {}
        for line in self._file.read_text().splitlines():
            name, outcome, words = json.loads(line)
            if outcomes.get(name, ("passed",))[0] == "passed":
                outcomes[name] = outcome, words
        return outcomes


def compare(stock: Outcomes, ours: Outcomes, reasons: Mapping[str, str]) -> int:
    """Print what passes with the stock pool and not with ours; 0: each has a reason.

    :param reasons: differences that are right, by the beginning of the test's name.
    """
    for pools, outcomes in (("stock", stock), ("ours", ours)):
        counted = Counter(outcome for outcome, _ in outcomes.values())
        print(f"{pools:>6}: " + ", ".join(f"{n} {o}" for o, n in counted.most_common()))
    unexplained = 0
    for name, (outcome, _) in sorted(stock.items()):
        here, words = ours.get(name, ("missing", ""))
        if outcome == "passed" and here != "passed":
            why = [reason for test, reason in reasons.items() if name.startswith(test)]
            unexplained += not why
            print(f"\n{name}: {here}")
            print("  " + (why or [f"NO REASON\n{words}"])[0])
    gained = sorted(
        name
        for name, (outcome, _) in ours.items()
        if outcome == "passed" and stock.get(name, ("missing",))[0] != "passed"
    )
    print(f"\npassed with ours alone: {', '.join(gained) or 'none'}")
    print(f"differences without a reason: {unexplained}")
    return 1 if unexplained else 0
