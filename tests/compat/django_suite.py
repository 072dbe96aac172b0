"""
Django's own tests, with its MySQL backend on PyMySQL and with ours: ``make compat``.

Downloads the source distribution of the Django that is installed, which ships its
tests, and runs those of the applications that are about databases under gevent twice
at a time, each run with a MariaDB of its own; ours with its pool on. Prints test by
test what passes with the stock backend and not with ours, and ends with 1 if there is a
line without a reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path

from tests.compat.environment import REPOSITORY, environment, pip
from tests.servers import MariaDBServer

#: What Django's tests import, where it makes a difference here.
REQUIREMENTS = ("gevent", "PyMySQL", "jinja2", "PyYAML", "tblib")

#: Applications of Django's tests whose subject is the database, a connection's life,
#: or a server that uses both.
APPLICATIONS = """
aggregation annotations backends basic builtin_server bulk_create cache constraints
custom_pk datatypes datetimes db_utils delete expressions expressions_case fixtures
force_insert_update get_or_create handlers inspectdb introspection lookup
m2m_through migrate_signals migrations model_fields multiple_database
prefetch_related queries raw_query schema select_for_update select_related
serializers servers sessions_tests test_client test_runner test_utils timezones
transaction_hooks transactions update
""".split()

#: Differences that are right, by the beginning of the test's name.
REASONS: dict[str, str] = {}

Outcomes = dict[str, tuple[str, str]]


def main(chosen: list[str]) -> int:
    """Run all, or the applications *chosen*; 0 if every difference has its reason."""
    version = metadata.version("Django")
    python = environment("compat-django", f"Django=={version}", *REQUIREMENTS)
    with tempfile.TemporaryDirectory() as name:
        suite = _suite(version, Path(name))
        there = [each for each in chosen or APPLICATIONS if (suite / each).exists()]
        runs = {
            backend: _Run(backend, suite, python, there)
            for backend in ("stock", "ours")
        }
        stock, ours = (run.outcomes() for run in runs.values())
    print(f"Django {version}: {' '.join(there)}")
    for backend, outcomes in (("stock", stock), ("ours", ours)):
        counted = Counter(outcome for outcome, _ in outcomes.values())
        told = ", ".join(f"{n} {outcome}" for outcome, n in counted.most_common())
        print(f"{backend:>6}: {told}")
    return _compare(stock, ours)


def _suite(version: str, folder: Path) -> Path:
    """The folder of Django's tests."""
    archives = folder / "archives"
    options = ("--no-deps", "--no-binary", "Django", "--dest", archives)
    pip(sys.executable, "download", *options, f"Django=={version}")
    with tarfile.open(next(archives.glob("[dD]jango-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("[dD]jango-*/tests"))


class _Run:
    """One run of the suite, in a process of its own, begun at once."""

    def __init__(
        self, backend: str, suite: Path, python: Path, applications: list[str]
    ) -> None:
        self._backend = backend
        self._server = server = MariaDBServer().start()
        # Test databases are made and dropped under names of their own.
        server.ask(f"GRANT ALL ON *.* TO '{server.user}'@'%'")
        # Django 4.2 asks something of the real ones before.
        for name in ("django", "django_other"):
            server.ask(f"CREATE DATABASE {name}")
        self._file = suite / f"{backend}.json"
        self._log = suite / f"{backend}.log"
        where = {
            "HOST": server.host,
            "PORT": server.port,
            "USER": server.user,
            "PASSWORD": server.password,
        }
        settings = {
            "BACKEND": backend,
            "SERVER": json.dumps(where),
            "OUTCOMES": str(self._file),
            "PYTHONPATH": str(REPOSITORY),
        }
        arguments = ("--settings=run_django_tests", "--parallel=1", "--noinput")
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [
                    python,
                    Path(__file__).with_name("run_django_tests.py"),
                    *arguments,
                    *applications,
                ],
                cwd=suite,
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def outcomes(self) -> Outcomes:
        """What became of each test, when all are over."""
        status = self._process.wait()
        self._server.close()
        # 1: some tests failed; or none was run.
        if status not in (0, 1) or not self._file.exists():
            sys.exit(
                f"the run with {self._backend} failed:\n"
                f"{self._log.read_text()[-5000:]}"
            )
        outcomes: Outcomes = {}
        for line in self._file.read_text().splitlines():
            name, outcome, words = json.loads(line)
            if outcomes.get(name, ("passed",))[0] == "passed":
                outcomes[name] = outcome, words
        return outcomes


def _compare(stock: Outcomes, ours: Outcomes) -> int:
    unexplained = 0
    for name, (outcome, _) in sorted(stock.items()):
        here, words = ours.get(name, ("missing", ""))
        if outcome == "passed" and here != "passed":
            reasons = [why for test, why in REASONS.items() if name.startswith(test)]
            unexplained += not reasons
            print(f"\n{name}: {here}")
            print("  " + (reasons or [f"NO REASON\n{words}"])[0])
    gained = sorted(
        name
        for name, (outcome, _) in ours.items()
        if outcome == "passed" and stock.get(name, ("missing",))[0] != "passed"
    )
    print(f"\npassed with ours alone: {', '.join(gained) or 'none'}")
    print(f"differences without a reason: {unexplained}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
