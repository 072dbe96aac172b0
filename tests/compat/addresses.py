"""The address of the project, put into the copy of the sources that is published.

A checkout has no address of its own: its README shows the pictures beside it, and its
metadata has no links. A package index shows neither, so a release is built from a copy
that names where the project can be found.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.compat.environment import REPOSITORY

__all__ = ["check_address", "copy_with_address"]

#: A picture in the README, with its path in the checkout.
PICTURE = re.compile(r"(?m)^(\.\. image:: )(?!\w+://)(\S+)$")


def check_address(address: str) -> str:
    """The address of the project's pages, without a slash at its end.

    :raises ValueError: it is no https address.
    """
    if not re.fullmatch(r"https://[^\s/]+(/[^\s?#]+?)*/?", address):
        raise ValueError(f"ADDRESS must be an https address, not {address!r}")
    return address.rstrip("/")


def copy_with_address(address: str, version: str, folder: Path) -> Path:
    """A copy of what is under version control, which names *address*.

    Paths are those of GitHub, which other forges redirect: ``/raw/`` for a file as it
    is, ``/blob/`` for its page.

    :param version: files are shown as of the tag of this version.
    :param folder: the copy is made in it.
    """
    listing: list[str | Path] = ["git", "-C", REPOSITORY, "ls-files", "-z"]
    names = subprocess.run(listing, check=True, capture_output=True).stdout.decode()
    for name in names.rstrip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, folder / name)
    readme, setup = folder / "README.rst", folder / "setup.cfg"
    files = f"{address}/raw/v{version}"
    readme.write_text(PICTURE.sub(rf"\g<1>{files}/\2", readme.read_text()))
    setup.write_text(_with_links(setup.read_text(), address, version))
    return folder


def _with_links(setup: str, address: str, version: str) -> str:
    links = {
        "Source": address,
        "Documentation": f"{address}/tree/v{version}/docs",
        "Changes": f"{address}/blob/v{version}/CHANGES.rst",
        "Issues": f"{address}/issues",
    }
    lines = "".join(f"    {name} = {link}\n" for name, link in links.items())
    return setup.replace("[metadata]\n", f"[metadata]\nproject_urls =\n{lines}", 1)
