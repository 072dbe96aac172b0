"""
Our tests of an adapter with other versions of its driver: ``make test-versions``.

Each version gets a virtual environment of its own. Names of versions on the command
line choose among them.
"""

from __future__ import annotations

import subprocess
import sys

from tests.compat.environment import REPOSITORY, environment

#: The oldest that is supported, and one of each line that changed what pools do.
REDIS = ("6.4.*", "7.0.*", "7.4.*", "8.0.*", "8.1.*")

TEST_REQUIREMENTS = ("gevent", "pytest>=8.2", "mirakuru>=2.5", "psutil", "PyMySQL")


def main(chosen: list[str]) -> int:
    """Run the Redis tests with each version; 0 if all pass with all."""
    failed = []
    for version in chosen or REDIS:
        driver = f"redis[hiredis]=={version}"
        name = f"redis-{version.removesuffix('.*')}"
        python = environment(name, driver, *TEST_REQUIREMENTS)
        print(f"\n{driver}", flush=True)
        command = [
            python,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/redis",
        ]
        if subprocess.run(command, cwd=REPOSITORY).returncode:
            failed.append(version)
    print(f"\nfailed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
