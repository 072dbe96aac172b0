"""Sites for the storms: servers that are nobody else's, since they are done harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.failures import scenes
from tests.failures.sites import SITES, Site
from tests.servers import MariaDBServer, RedisServer


@pytest.fixture(scope="session")
def _own_servers() -> Iterator[dict[str, Any]]:
    servers = {name: kind() for name, (kind, _) in SITES.items()}
    yield servers
    for server in servers.values():
        server.close()


@pytest.fixture()
def make_site(_own_servers: dict[str, Any]) -> Iterator[Callable[[str], Site[Any]]]:
    """Makes a site of that name; it must be as it was at the end."""
    made: list[Site[Any]] = []

    def make(name: str) -> Site[Any]:
        server = _own_servers[name].start()
        site = SITES[name][1](server).__enter__()
        made.append(site)
        return site

    yield make
    for site in made:
        site.put_right()
        site.__exit__(None, None, None)


@pytest.fixture(scope="module")
def site(
    redis_server: RedisServer,
    mariadb_server: MariaDBServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[scenes.Site]:
    """The servers of the operations that are disturbed, one for the whole module."""
    folder = tmp_path_factory.mktemp("load")
    with scenes.open_site(redis_server, mariadb_server, folder) as site:
        yield site
