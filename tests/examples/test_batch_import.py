"""A batch of many greenlets, and its end by Ctrl-C."""

from __future__ import annotations

import re
import signal

import psutil
import pytest

from geventpool.testing import wait_until
from tests.examples.programs import PATIENCE, Program, account, run
from tests.servers import MariaDBServer, RedisServer

FOLDER = "batch-import"
ROWS = 1000

#: The most connections of each pool.
MOST = 10


@pytest.fixture
def addresses(redis_server: RedisServer, mariadb_server: MariaDBServer):
    """The servers, with the numbers that are to be copied."""
    numbers = {f"number:{row}": str(row) for row in range(ROWS)}
    redis_server.ask("MSET", *(word for pair in numbers.items() for word in pair))
    mariadb_server.ask(f"DROP TABLE IF EXISTS {mariadb_server.database}.imported")
    # The server itself refuses an eleventh connection.
    user = account(mariadb_server, "batch", MOST)
    address = (
        f"{user['MYSQL_USER']}:{user['MYSQL_PASSWORD']}@{mariadb_server.host}:"
        f"{mariadb_server.port}/{mariadb_server.database}"
    )
    yield {"REDIS_URL": redis_server.url, "MYSQL_URL": f"mysql://{address}"}
    redis_server.ask("DEL", *numbers)


def counted(said: str) -> dict[str, int]:
    """Return what the program has printed."""
    return {name: int(n) for name, n in re.findall(r"^([^:\n]+): (\d+)$", said, re.M)}


def copied(server: MariaDBServer) -> list[tuple[int, ...]]:
    """Return the rows at the server."""
    return server.ask(f"SELECT id, number FROM {server.database}.imported")


def test_it_ends_by_ctrl_c_and_the_next_run_copies_every_row(addresses, mariadb_server):
    """The connections that were interrupted are not used again. The limits hold."""
    # Slow rows, so that it is interrupted among them.
    with Program(
        FOLDER, "import_rows.py", str(ROWS), ready="copying", **addresses
    ) as program:
        wait_until(lambda: len(copied(mariadb_server)) > 10)
        process = psutil.Process(program.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0, program.log
        seen = counted(program.log)
    rows = copied(mariadb_server)
    assert seen["rows"] == len(rows) <= ROWS
    assert all(row == number for row, number in rows)

    seen = counted(run(FOLDER, "import_rows.py", str(ROWS), **addresses))
    assert seen["rows"] == ROWS
    assert seen["connections to MySQL"] <= MOST
    assert sorted(copied(mariadb_server)) == [(row, row) for row in range(ROWS)]
