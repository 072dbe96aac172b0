"""The page about the API names what there is to import."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "stability.rst"
PACKAGE = Path(__file__).parent.parent / "geventpool"

#: Modules whose names are imported from ``geventpool``, that are commands, or that
#: serve the adapters of this package.
WITHIN = {
    *("admission", "budget", "connection", "connector", "dbapi", "dialing", "errors"),
    *("factory", "fork_listeners", "hints", "labels", "listeners", "options"),
    *("patching", "policies", "pool", "process_pools", "series", "signatures"),
    *("sockets", "threaded", "advise", "doctor", "top", "__main__"),
}


def public() -> list[str]:
    """The modules in the list of the page."""
    text = PAGE.read_text()
    items = [line for line in text.splitlines() if line.startswith("* ``geventpool")]
    return re.findall(r"``(geventpool[\w.]*)``", "\n".join(items))


def test_each_module_is_public_or_part_of_another() -> None:
    """A new module must be one or the other, and users must be told which."""
    named = {name.split(".")[1] for name in public() if "." in name}
    there = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.name not in ("__init__.py", "py.typed", "_core", "__pycache__")
    }
    assert there - WITHIN == named
    assert not named & WITHIN


def test_each_named_module_exists() -> None:
    """A name that was changed is changed here too."""
    for name in public():
        assert find_spec(name) is not None, name
