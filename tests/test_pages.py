"""What the documentation shows is run as it stands there."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docutils.core
import pytest

from tests.event_loops import not_on_libuv
from tests.pages import README, ROOT, bare_blocks, blocks, name, pages
from tests.redis.clusters import Cluster
from tests.servers import RedisSentinel

#: Languages of blocks: Python is run, commands must exist, text is output or a drawing.
LANGUAGES = {"python", "console", "text"}

WITH_PYTHON = [
    page for page in pages() if any(b.language == "python" for b in blocks(page))
]
COMMANDS = [
    pytest.param(line, id=f"{name(page)}: {line}")
    for page in pages()
    for block in blocks(page)
    if block.language == "console"
    for line in block.source.splitlines()
]


@pytest.fixture
def addresses(
    redis_server: Any, mariadb_server: Any, postgres_server: Any, tmp_path: Path
) -> Iterator[Callable[[str], str]]:
    """Replace the addresses that pages show by those of running servers."""
    with ExitStack() as stack:

        def sentinel() -> str:
            return str(stack.enter_context(RedisSentinel(redis_server)).port)

        def cluster() -> str:
            return str(stack.enter_context(Cluster()).nodes[0].port)

        account = mariadb_server.client_options
        shop = "user:password@127.0.0.1:3306/shop"
        address = "{user}:{password}@127.0.0.1:{port}/{database}".format(**account)
        replaced = {
            shop: address,
            '"shop", host': '"{database}", host'.format(**account),
            'port=3306, user="user", password="password"': (
                'port={port}, user="{user}", password="{password}"'.format(**account)
            ),
            "/run/shop": str(tmp_path),
        }
        ports = {
            "6379": lambda: str(redis_server.port),
            "5432": lambda: str(postgres_server.port),
            "26379": sentinel,
            "7000": cluster,
        }

        def replace(source: str) -> str:
            for port, running in ports.items():
                if re.search(rf"\b{port}\b", source):
                    source = re.sub(rf"\b{port}\b", running(), source)
            for shown, real in replaced.items():
                source = source.replace(shown, real)
            return source

        yield replace


def runnable(page: Path) -> Any:
    """The page as a parameter, with the reason where it cannot be run."""
    # It asks sentinels by redis-py's own pools.
    if page.stem != "redis-cluster-sentinel":
        return page
    reason = "poll(0) of gevent says that a silent socket is readable"
    return pytest.param(page, marks=not_on_libuv(reason))


@pytest.mark.parametrize("page", list(map(runnable, WITH_PYTHON)), ids=name)
def test_every_example_runs(
    page: Path, addresses: Callable[[str], str], tmp_path: Path
) -> None:
    """One after another, as a reader would type them; only the addresses differ.

    Each page is a program of its own: some patch, or measure all pools of the process.
    """
    source = ""
    for block in blocks(page):
        if block.language == "python":
            # Errors name the line of the page.
            source += "\n" * (block.line - source.count("\n") - 1) + block.source
    program = tmp_path / f"{page.stem}_page.py"
    program.write_text(addresses(source), encoding="utf-8")
    command = [sys.executable, "-W", "error", str(program)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_block_has_a_language(page: Path) -> None:
    """What is run and what is not is not guessed."""
    assert list(bare_blocks(page)) == []
    assert {block.language for block in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_project_exist(line: str) -> None:
    """Each target of make, and each module that is run by ``python -m``."""
    if target := re.match(r"make ([\w-]+)", line):
        makefile = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{target[1]}:", makefile, re.MULTILINE)
    if module := re.search(r"python -m ([\w.]+)", line):
        assert importlib.util.find_spec(module[1])


def test_pages_are_found_with_their_setup_and_lines(tmp_path: Path) -> None:
    """A block ends where its indentation ends; the numbers are those of the file."""
    page = tmp_path / "page.rst"
    page.write_text(
        ".. setup for the examples\n\n    a = 1\n\nText::\n\n    bare\n\n"
        "* .. code-block:: python\n\n    b = a\n\n    c = b\n\nEnd.\n"
    )
    found = [(each.language, each.line, each.source) for each in blocks(page)]
    assert found == [("python", 3, "a = 1\n"), ("python", 11, "b = a\n\nc = b\n")]
    assert list(bare_blocks(page)) == [5]


def test_the_readme_is_short_and_good_markup() -> None:
    """A package index shows what a strict reader of the markup accepts."""
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    docutils.core.publish_string(
        text,
        writer="null",
        settings_overrides={"halt_level": 2, "report_level": 2, "raw_enabled": False},
    )


def test_the_readme_names_pages_that_exist() -> None:
    """A row of the table names a folder once and then its files."""
    folder = ""
    for path in re.findall(r"``([\w/-]+(?:\.rst)?)``", README.read_text()):
        if path.startswith("docs"):
            folder = path.rpartition("/")[0]
        if path.endswith(".rst") or path.startswith("docs"):
            assert (ROOT / path).exists() or (ROOT / folder / path).exists(), path


def test_every_page_is_in_the_contents() -> None:
    """No page is found by its address alone."""
    docs = ROOT / "docs"
    index = (docs / "index.rst").read_text()
    listed = set(re.findall(r"^   ([a-z/-]+)$", index, re.MULTILINE))
    there = {
        page.relative_to(docs).with_suffix("").as_posix()
        for page in docs.rglob("*.rst")
        # The pages of the examples are in the contents of their folder.
        if page.parent.name != "examples" or page.stem == "index"
    }
    assert there - {"index"} == listed


def test_every_example_is_in_the_contents() -> None:
    """Each folder with a program has a page, and each page is listed."""
    examples = ROOT / "docs" / "examples"
    index = (examples / "index.rst").read_text()
    listed = set(re.findall(r"^   ([a-z0-9-]+)$", index, re.MULTILINE))
    assert {page.stem for page in examples.glob("*.rst")} - {"index"} == listed
    assert {each.name for each in examples.iterdir() if each.is_dir()} == listed
