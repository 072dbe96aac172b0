"""A Django that is set up, a database with the project's table, and wrappers for it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest
from django.core.management import call_command
from django.core.signals import request_finished, request_started
from django.db import connections

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django.project.settings")
django.setup()

import geventpool  # noqa: E402
from geventpool.django.mysql.base import DatabaseWrapper  # noqa: E402
from geventpool.django.mysql.pools import pools  # noqa: E402
from geventpool.mysql import ConnectionPool  # noqa: E402
from geventpool.mysql.protocol import Wire  # noqa: E402
from geventpool.testing import check, wait_until  # noqa: E402
from tests.django.project.models import Account  # noqa: E402
from tests.servers import MariaDBServer  # noqa: E402

MakeWrapper = Callable[..., DatabaseWrapper]


def where(server: MariaDBServer) -> dict[str, Any]:
    """Where the database is, as one of DATABASES has it."""
    return {
        "NAME": server.database,
        "HOST": server.host,
        "PORT": server.port,
        "USER": server.user,
        "PASSWORD": server.password,
    }


@pytest.fixture(scope="session")
def migrated(mariadb_server: MariaDBServer) -> MariaDBServer:
    """The common server, which the project knows, with the project's table."""
    connections.databases["default"].update(where(mariadb_server))
    # For databases that tests make and drop.
    mariadb_server.ask(f"GRANT ALL ON `test\\_%`.* TO '{mariadb_server.user}'@'%'")
    call_command("migrate", run_syncdb=True, verbosity=0)
    connections.close_all()
    return mariadb_server


@pytest.fixture()
def accounts(migrated: MariaDBServer) -> Iterator[list[Account]]:
    """Ten accounts with 100 each; nothing is lent, and no pool left, afterwards."""
    made = Account.objects.bulk_create(Account(number=number) for number in range(10))
    request_finished.send(None)
    settle(connections["default"].pool)
    yield made
    wrapper = connections["default"]
    Account.objects.all().delete()
    wrapper.close()
    check(wrapper.pool)
    assert wrapper.pool.stats().in_use == 0
    wrapper.close_pool()


@pytest.fixture()
def make(migrated: MariaDBServer) -> Iterator[MakeWrapper]:
    """Makes wrappers with a pool of their own, closed at the end.

    Keywords are settings; ``pool`` and those of ``options`` go into OPTIONS.
    """
    made: list[DatabaseWrapper] = []

    def make_one(
        pool: Any = True, options: dict[str, Any] | None = None, **more: Any
    ) -> DatabaseWrapper:
        settings = copy.deepcopy(connections.databases["default"])
        settings["OPTIONS"].update(options or {}, pool=pool)
        settings.update(more)
        wrapper = DatabaseWrapper(settings, f"test{len(made)}")
        made.append(wrapper)
        return wrapper

    yield make_one
    for wrapper in made:
        wrapper.close()
        pool = pools.find(wrapper.alias, wrapper.settings_dict)
        if pool is not None:
            check(pool)
            assert pool.stats().in_use == 0
        wrapper.close_pool()
        names = {pool.name for pool in geventpool.pools()}
        assert f"django {wrapper.alias}" not in names


@pytest.fixture()
def trips(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What has been sent to servers, one entry for each round trip."""
    sent: list[bytes] = []
    write, send_ahead = Wire._write_bytes, Wire.send_ahead

    def note(self: Wire, data: bytes) -> None:
        sent.append(bytes(data[5:]))
        write(self, data)

    def note_ahead(self: Wire, data: bytes, *more: int, **options: bool) -> bool:
        sent.append(bytes(data[5:]))
        return send_ahead(self, data, *more, **options)

    monkeypatch.setattr(Wire, "_write_bytes", note)
    monkeypatch.setattr(Wire, "send_ahead", note_ahead)
    return sent


class Request:
    """The life of a request, as Django's handler signals it."""

    def __enter__(self) -> None:
        request_started.send(None)

    def __exit__(self, *error: object) -> None:
        request_finished.send(None)


def settle(pool: ConnectionPool) -> None:
    """Wait until every connection is either lent or idle."""

    def wire_is_clean() -> bool:
        stats = pool.stats()
        return stats.size == stats.idle + stats.in_use

    wait_until(wire_is_clean, "settled")


def value(wrapper: DatabaseWrapper, statement: str, *values: object) -> Any:
    """The first column of the first row of one statement."""
    with wrapper.cursor() as cursor:
        cursor.execute(statement, values or None)
        row = cursor.fetchone()
    return None if row is None else row[0]
