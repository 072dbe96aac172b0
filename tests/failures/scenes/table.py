"""The table of operations, and the servers they talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geventpool import Pool
from geventpool.testing import wait_until
from tests.failures.proxy import Proxy
from tests.peers import Echo, tls_contexts, unix_path
from tests.servers import MariaDBServer, RedisSentinel, RedisServer


@dataclass
class Site:
    """The servers."""

    echo: Echo
    tls: Echo
    unix: Echo
    redis: RedisServer
    sentinel: RedisSentinel
    cluster: RedisServer
    mysql: MariaDBServer
    file: str
    #: In front of the two servers, in this process. So a reply is never there before
    #: one waits for it.
    late_redis: Proxy
    late_mysql: Proxy


@dataclass
class Scene:
    """One run: what is done, on which pools, and what must be true afterwards."""

    work: Callable[[], object]
    pools: Sequence[Pool[Any]]
    afterwards: Callable[[], object]
    #: the pools serve further runs
    lasting: bool = False


@dataclass(frozen=True)
class Row:
    """An operation, and what of geventpool it interrupts."""

    begin: Callable[[Site], Scene]
    covers: tuple[str, ...]


ROWS: dict[str, Row] = {}


def covers(*names: str) -> Callable[[Callable[[Site], Scene]], None]:
    """Put an operation in the table."""

    def note(begin: Callable[[Site], Scene]) -> None:
        ROWS[begin.__name__] = Row(begin, names)

    return note


@contextmanager
def open_site(
    redis_server: RedisServer, mariadb_server: MariaDBServer, folder: Path
) -> Iterator[Site]:
    """Start what is missing, and make the tables and keys of the operations.

    :param Path folder: the place for a file that is loaded.
    """
    file = folder / "numbers.txt"
    file.write_text("".join(f"{number}\t0\n" for number in range(10, 5000)))
    name = f"{mariadb_server.database}"
    mariadb_server.ask("SET GLOBAL local_infile=1")
    mariadb_server.ask(f"CREATE TABLE {name}.money (i INT PRIMARY KEY, v INT)")
    mariadb_server.ask(f"CREATE TABLE {name}.loaded (i INT, v INT)")
    mariadb_server.ask(f"INSERT INTO {name}.money VALUES (1, 100), (2, 200)")
    mariadb_server.ask(
        f"CREATE PROCEDURE {name}.several() BEGIN SELECT 1; SELECT 2; END"
    )
    with (
        unix_path() as path,
        Echo() as echo,
        Echo(tls=tls_contexts()[0]) as tls,
        Echo(path) as unix,
        RedisServer("--cluster-enabled", "yes") as cluster,
        RedisSentinel(redis_server) as sentinel,
        Proxy(redis_server.host, redis_server.port) as late_redis,
        Proxy(mariadb_server.host, mariadb_server.port) as late_mysql,
    ):
        cluster.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: "cluster_state:ok" in str(cluster.ask("CLUSTER", "INFO")))
        with redis_server.admin() as admin:
            admin.mset({"mine": "M", "yours": "Y"})
        yield Site(
            *(echo, tls, unix, redis_server, sentinel, cluster, mariadb_server),
            *(str(file), late_redis, late_mysql),
        )
    for drop in "TABLE {}.money", "TABLE {}.loaded", "PROCEDURE {}.several":
        mariadb_server.ask(f"DROP {drop}".format(name))
