"""Our tests of an adapter with other versions of its driver: ``make test-versions``.

Each version gets a virtual environment of its own. Names on the command line choose
among them: ``sqlalchemy``, ``2.0.*`` or ``sqlalchemy-2.0``.
"""

from __future__ import annotations

import subprocess
import sys

from tests.compat.environment import REPOSITORY, environment

#: The driver's requirement, its name, the folder of our tests; and of its versions the
#: oldest that is supported, and one of each line that changed what pools do.
DRIVERS = (
    (
        "redis[hiredis]",
        "redis",
        "tests/redis",
        ("6.4.*", "7.0.*", "7.4.*", "8.0.*", "8.1.*"),
    ),
    ("SQLAlchemy", "sqlalchemy", "tests/sqlalchemy", ("2.0.*", "2.1.*")),
    ("Django", "django", "tests/django", ("4.2.*", "5.2.*")),
)

TEST_REQUIREMENTS = (
    *("gevent", "hypothesis", "pytest>=8.2", "mirakuru>=2.5", "psutil"),
    *("redis", "PyMySQL", "gunicorn", "rich"),
)


def main(chosen: list[str]) -> int:
    """Run the tests of each driver with its versions; 0 if all pass with all."""
    failed = []
    for driver, name, tests, versions in DRIVERS:
        for version in versions:
            label = f"{name}-{version.removesuffix('.*')}"
            if not chosen or name in chosen or version in chosen or label in chosen:
                requirement = f"{driver}=={version}"
                python = environment(label, requirement, *TEST_REQUIREMENTS)
                print(f"\n{requirement}", flush=True)
                command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
                if subprocess.run([*command, str(tests)], cwd=REPOSITORY).returncode:
                    failed.append(label)
    print(f"\nfailed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
