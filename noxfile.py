"""The versions that geventpool supports, in every combination: ``make matrix``.

A session is one combination of an interpreter, gevent, its event loop and the drivers.
Sessions whose interpreter is missing are skipped. ``make matrix ARGS="..."`` passes
arguments to nox: ``--list`` shows the sessions, ``-k "3.12 and libuv"`` chooses some,
and what follows ``--`` goes to pytest (default: all tests but the laboratory's).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

#: Each event loop, with gevent's name of it.
LOOPS = {"libev": "libev-cext", "libuv": "libuv-cffi"}
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

#: Lowest and newest; the lowest ones are those of setup.cfg.
GEVENT = {"lowest": "gevent==25.9.1", "newest": "gevent"}
DRIVERS = {
    "lowest": ("redis==6.4.*", "PyMySQL==1.1.*", "SQLAlchemy==2.0.*", "Django==4.2.*"),
    "newest": ("redis", "PyMySQL", "SQLAlchemy", "Django"),
}
#: Django 4.2 runs on Python up to 3.12; the lowest Django for the later ones.
DJANGO_ON_LATER_PYTHONS = "Django==5.2.*"

#: Not in every session: the laboratory takes most of an hour, and the tests of the
#: benchmarks need the packages that are measured.
LEFT_OUT = [
    "tests/failures",
    *(
        str(path)
        for path in sorted(Path("tests").rglob("test_*.py"))
        if "benchmarks" in path.read_text()
    ),
]
DEFAULT_TESTS = ["-q", "-p", "no:cacheprovider", "tests"]
DEFAULT_TESTS += [f"--ignore={path}" for path in LEFT_OUT]

# pyenv's commands find only the interpreters that are switched on.
if shutil.which("pyenv"):
    result = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True)
    found = result.stdout.decode().split()
    os.environ.setdefault("PYENV_VERSION", ":".join(found))

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.stop_on_first_error = False


@nox.session(python=PYTHONS)
@nox.parametrize("drivers", list(DRIVERS))
@nox.parametrize("loop", list(LOOPS))
@nox.parametrize("gevent", list(GEVENT))
def tests(session: nox.Session, gevent: str, loop: str, drivers: str) -> None:
    """Run the tests with one combination of versions."""
    requirements = list(DRIVERS[drivers])
    if drivers == "lowest" and session.python in ("3.13", "3.14"):
        requirements[-1] = DJANGO_ON_LATER_PYTHONS
    session.install("-e", ".[test]", GEVENT[gevent], *requirements)
    environment = {"GEVENT_LOOP": LOOPS[loop]}
    session.run("python", "-c", _VERSIONS, loop, env=environment)
    arguments = session.posargs or DEFAULT_TESTS
    session.run("python", "-m", "pytest", *arguments, env=environment)


#: Names what is tested, and fails if it is another loop.
_VERSIONS = """
import sys
from importlib.metadata import version
import gevent
loop = type(gevent.get_hub().loop).__module__
print(sys.version.split()[0], loop, *(
    f"{name} {version(name)}"
    for name in ("gevent", "greenlet", "redis", "PyMySQL", "SQLAlchemy", "Django")
))
wanted = {"libev": "gevent.libev.corecext", "libuv": "gevent.libuv.loop"}
assert loop == wanted[sys.argv[1]], loop
"""
