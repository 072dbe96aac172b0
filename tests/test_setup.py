"""What an installed geventpool promises before anybody opens a connection."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata, resources

import geventpool


def test_the_version_is_the_installed_one() -> None:
    """Package and metadata tell one version."""
    assert geventpool.__version__ == metadata.version("geventpool")


def test_types_are_published() -> None:
    """Type checkers of our users read our annotations."""
    assert resources.files(geventpool).joinpath("py.typed").is_file()


def test_the_core_needs_gevent_alone() -> None:
    """An installation without extras has gevent and nothing else."""
    requirements = metadata.requires("geventpool") or []
    core = [each for each in requirements if "extra ==" not in each]
    assert [each.partition(">=")[0] for each in core] == ["gevent"]


def test_importing_the_core_loads_no_driver_and_patches_nothing() -> None:
    """Drivers are loaded by who uses them, and patching is the program's to do."""
    script = (
        "import sys, geventpool\n"
        "from gevent import monkey\n"
        "assert not {'redis', 'pymysql', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not monkey.saved\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_public_names_say_that_they_are_in_the_package() -> None:
    """Messages and pickles name no module that may be moved."""
    for name in geventpool.__all__:
        module = getattr(getattr(geventpool, name), "__module__", "geventpool")
        assert module == "geventpool", f"{name} says that it is in {module}"
