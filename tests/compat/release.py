"""Check what would be published: ``make release-check ADDRESS=https://...``.

Builds the source distribution and the wheel, reads their metadata as a package index
does, looks for the tests in the one and for nothing but the package in the other,
installs the wheel in an empty environment, and runs the README's first example there.
Nothing is uploaded. What was built and checked is left in ``dist``.

With the address of the project the packages have links, and the README's pictures are
seen on the page of an index. Without it they have neither, and ``dist`` is not made.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import geventpool
from tests.compat.addresses import check_address, copy_with_address
from tests.compat.environment import REPOSITORY, pip
from tests.pages import README, blocks
from tests.servers import RedisServer

__all__ = ["main"]

#: A source distribution without one of these could not be tested or explained.
IN_SOURCES = (
    "CHANGES.rst",
    "CONTRIBUTING.rst",
    "LICENSE",
    "Makefile",
    "README.rst",
    "SECURITY.rst",
    "geventpool/py.typed",
    "tests/test_acquire.py",
    "tests/redis/tls",
    # The pictures of the README.
    *re.findall(r"image:: (\S+)", README.read_text()),
)


def main(arguments: list[str]) -> int:
    """Run all steps; 0 if all went well. The first that fails ends the program."""
    parser = argparse.ArgumentParser(prog="release", description=__doc__)
    parser.add_argument("--address", default="", help="where the project can be found")
    address = parser.parse_args(arguments).address
    version = geventpool.__version__
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources = REPOSITORY
        if address:
            address = check_address(address)
            sources = copy_with_address(address, version, folder / "sources")
        run("-m", "build", "--outdir", folder / "dist", sources)
        files = sorted((folder / "dist").iterdir())
        run("-m", "twine", "check", "--strict", *files)
        for path in files:
            if path.suffix == ".whl":
                check_wheel(path)
                try_example(path, folder / "environment")
            else:
                check_sources(path)
        check_changes()
        if address:
            shutil.copytree(folder / "dist", REPOSITORY / "dist", dirs_exist_ok=True)
            print(f"geventpool {version} can be released: see dist")
        else:
            print(
                f"geventpool {version} can be built; a release needs ADDRESS=https://..."
            )
    return 0


def run(*arguments: str | Path) -> None:
    """Run this interpreter; end the program if it fails."""
    result = subprocess.run([sys.executable, *arguments])
    if result.returncode:
        sys.exit(f"python {' '.join(map(str, arguments))} failed")


def check_sources(path: Path) -> None:
    """The source distribution has what is needed to test it."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    if missing := [name for name in IN_SOURCES if name not in names]:
        sys.exit(f"{path.name} lacks {', '.join(missing)}")


def check_wheel(path: Path) -> None:
    """The wheel has the package, its types, and nothing beside it."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    for needed in ("geventpool/py.typed", "geventpool_pytest.py"):
        if needed not in names:
            sys.exit(f"{path.name} lacks {needed}")
    tops = {name.partition("/")[0] for name in names}
    if others := [top for top in tops if not top.startswith("geventpool")]:
        sys.exit(f"{path.name} also has {', '.join(others)}")


def try_example(wheel: Path, environment: Path) -> None:
    """Install the wheel and nothing else, and run the README's first example."""
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    pip(python, "install", wheel)
    with RedisServer() as server:
        source = next(blocks(README)).source.replace("6379", str(server.port))
        # Not in the checkout: it is the installed package that is tried.
        command = [python, "-W", "error", "-c", source]
        if subprocess.run(command, cwd=environment).returncode:  # type: ignore[arg-type]
            sys.exit("the README's first example fails with the wheel")


def check_changes() -> None:
    """The changelog begins with this version."""
    version = geventpool.__version__.partition(".dev")[0]
    text = (REPOSITORY / "CHANGES.rst").read_text()
    heading = text.partition("\n---")[0].rpartition("\n")[2]
    if heading.partition(" ")[0] != version:
        sys.exit(f"CHANGES.rst begins with {heading!r}, not with {version}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
