"""What every test stands on: patched modules, real servers, no hidden errors."""

# Patching comes before anything else can import socket or ssl.
from gevent import monkey

monkey.patch_all()

import traceback  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from types import TracebackType  # noqa: E402

import gevent  # noqa: E402
import pytest  # noqa: E402
from gevent.hub import Hub  # noqa: E402

from tests.servers import MariaDBServer, RedisServer, Server  # noqa: E402

HERE = Path(__file__).parent


@dataclass
class HubError:
    """An error that ended a greenlet or a hub callback, with nobody to raise it in."""

    context: str
    error: BaseException
    text: str


@pytest.fixture(autouse=True)
def ended_in_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test of the core that waits for something that never comes.

    Else the whole run hangs, and nobody learns which rule was broken. Tests beside
    servers have limits of their own.
    """
    if request.path.parent != HERE:
        yield
        return
    late = AssertionError("it waits for something that never comes")
    # Without a reference: a test may expect that nothing keeps the loop alive.
    with gevent.Timeout(60, late, ref=False):
        yield


@pytest.fixture(autouse=True)
def hub_errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[HubError]]:
    """The errors the hub would have printed; those left in the list fail the test.

    gevent prints the traceback of a greenlet that died of an error and goes on, so
    without this a test could pass over one. A test that expects such errors looks
    at the list and clears it.
    """
    errors: list[HubError] = []

    def collect(
        self: Hub,
        context: object,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            text = "".join(traceback.format_exception(kind, error, trace))
            errors.append(HubError(repr(context), error, text))

    monkeypatch.setattr(Hub, "print_exception", collect)
    yield errors
    # What the test left ready to run may fail too.
    gevent.sleep(0)
    if errors:
        pytest.fail(
            "errors reached the hub:\n"
            + "\n".join(f"in {each.context}\n{each.text}" for each in errors),
            pytrace=False,
        )


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A redis-server for the whole run. A test undoes its changes of settings."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDBServer]:
    """A mariadbd for the whole run. A test undoes its changes of settings."""
    with MariaDBServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A postgres for the whole run. A test undoes its changes of settings."""
    # Environments with older drivers have no driver for it.
    from tests.postgres import PostgresServer

    with PostgresServer() as server:
        yield server
