"""Django's own tests, with its MySQL backend and Redis cache or ours: ``make compat``.

Downloads the source distribution of the Django that is installed, which ships its
tests, and runs those of the applications that are about databases and caches under
gevent twice at a time, each run with servers of its own; ours with pools on. Prints
test by test what passes with the stock backends and not with ours, and ends with 1 if
there is a line without a reason.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from tests.compat.environment import environment
from tests.compat.outcomes import Run, compare, source
from tests.servers import MariaDBServer, RedisServer

#: What Django's tests import, where it makes a difference here.
REQUIREMENTS = ("gevent", "PyMySQL", "jinja2", "PyYAML", "redis", "tblib")

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


def main(chosen: list[str]) -> int:
    """Run all, or the applications *chosen*; 0 if every difference has its reason."""
    version = metadata.version("Django")
    python = environment("compat-django", f"Django=={version}", *REQUIREMENTS)
    with tempfile.TemporaryDirectory() as name:
        suite = source("Django", version, Path(name)) / "tests"
        there = [each for each in chosen or APPLICATIONS if (suite / each).exists()]
        runs = [_begin(pools, suite, python, there) for pools in ("stock", "ours")]
        stock, ours = (run.outcomes() for run in runs)
    print(f"Django {version}: {' '.join(there)}")
    return compare(stock, ours, REASONS)


def _begin(pools: str, suite: Path, python: Path, applications: list[str]) -> Run:
    server, redis_server = MariaDBServer().start(), RedisServer().start()
    # Test databases are made and dropped under names of their own.
    server.ask(f"GRANT ALL ON *.* TO '{server.user}'@'%'")
    # Django 4.2 asks something of the real ones before.
    for name in ("django", "django_other"):
        server.ask(f"CREATE DATABASE {name}")
    where = {
        "HOST": server.host,
        "PORT": server.port,
        "USER": server.user,
        "PASSWORD": server.password,
    }

    def over() -> None:
        server.close()
        redis_server.close()

    arguments = ("--settings=run_django_tests", "--parallel=1", "--noinput")
    return Run(
        pools,
        suite,
        (python,),
        "run_django_tests.py",
        (*arguments, *applications),
        over,
        {"SERVER": json.dumps(where), "REDIS": redis_server.url},
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
