"""What the README shows is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import docutils.core
import pytest

README = Path(__file__).parent.parent / "README.rst"
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)


def examples() -> list[str]:
    """The Python blocks, in order."""
    return [dedent(block) for block in BLOCK.findall(README.read_text())]


def test_every_example_runs(redis_server, mariadb_server):
    """One after another, as a reader would type them; only the ports are others."""
    import gevent

    account = mariadb_server.client_options
    url = "mysql://{user}:{password}@127.0.0.1:{port}/{database}".format(**account)
    names = {"gevent": gevent}
    ran = 0
    for example in examples():
        source = example.replace("port=6379", f"port={redis_server.port}")
        source = source.replace(
            '"127.0.0.1", 6379', f'"127.0.0.1", {redis_server.port}'
        )
        source = source.replace("mysql://user:password@127.0.0.1:3306/shop", url)
        exec(compile(source, "README.rst", "exec"), names)
        ran += 1
    assert ran >= 8
    for pool in (names["shop"], names["watched"], names["lines"]):
        pool.close(timeout=1)
    names["client"].close()
    names["pool"].close()


def test_it_is_good_markup():
    """A package index shows what a strict reader of the markup accepts."""
    docutils.core.publish_string(
        README.read_text(),
        writer="null",
        settings_overrides={"halt_level": 2, "report_level": 2, "raw_enabled": False},
    )


@pytest.mark.parametrize("target", ["demo", "test", "bench", "bench-readme", "compat"])
def test_the_commands_it_names_exist(target):
    """make knows every target the README speaks of."""
    makefile = (README.parent / "Makefile").read_text()
    assert f"make {target}" in README.read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
