"""What a pool is called in messages and metrics."""

from __future__ import annotations

from typing import Any

import pytest

from geventpool.mysql import ConnectionPool


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "mysql localhost:3306"),
        ({"host": "db1", "port": 3307, "database": "shop"}, "mysql db1:3307/shop"),
        ({"host": "db1", "db": "shop"}, "mysql db1:3306/shop"),
        ({"unix_socket": "/run/db"}, "mysql /run/db"),
        ({"hosts": ["db1", "db2:3307"]}, "mysql db1:3306,db2:3307"),
        ({"source": "mysql://me:secret@db1/shop"}, "mysql db1:3306/shop"),
        ({"source": dict}, "mysql"),
        ({"source": dict, "host": "db1"}, "mysql db1:3306"),
        ({"host": "db1", "name": "orders"}, "orders"),
    ],
)
def test_a_pool_without_a_name_is_called_by_its_server(
    options: dict[str, Any], name: str
) -> None:
    """The same after a restart, for metrics; and without the login."""
    assert ConnectionPool(**options).name == name
