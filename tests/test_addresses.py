"""What is published names where the project can be found."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.compat.addresses import PICTURE, check_address, copy_with_address
from tests.compat.environment import REPOSITORY

ADDRESS = "https://forge.example/team/geventpool"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("no checkout: git does not tell which files are published")
    folder = tmp_path_factory.mktemp("sources")
    return copy_with_address(ADDRESS, "1.2.3", folder)


def test_every_picture_of_the_published_readme_has_an_address(published: Path) -> None:
    """A package index has no files beside the README."""
    before = (REPOSITORY / "README.rst").read_text()
    after = (published / "README.rst").read_text()
    pictures = [path for _, path in PICTURE.findall(before)]
    assert len(pictures) >= 2
    for path in pictures:
        assert f".. image:: {ADDRESS}/raw/v1.2.3/{path}\n" in after
        assert (published / path).read_bytes() == (REPOSITORY / path).read_bytes()
    assert not PICTURE.search(after)


def test_the_published_metadata_have_links(published: Path) -> None:
    """An index shows them beside the README."""
    setup = ConfigParser()
    setup.read(published / "setup.cfg")
    links = setup["metadata"]["project_urls"].split("\n")[1:]
    assert links == [
        f"Source = {ADDRESS}",
        f"Documentation = {ADDRESS}/tree/v1.2.3/docs",
        f"Changes = {ADDRESS}/blob/v1.2.3/CHANGES.rst",
        f"Issues = {ADDRESS}/issues",
    ]
    assert setup["metadata"]["name"] == "geventpool"


@pytest.mark.parametrize("bad", ["", "http://forge.example/a", "forge", "https://a b"])
def test_an_address_that_is_none_is_refused(bad: str) -> None:
    """It would be published."""
    with pytest.raises(ValueError, match="ADDRESS must be an https address"):
        check_address(bad)


def test_a_slash_at_the_end_of_an_address_is_left_out() -> None:
    """Paths are appended to it."""
    assert check_address(ADDRESS + "/") == ADDRESS
