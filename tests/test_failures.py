"""A failure to open is told without anything secret."""

from __future__ import annotations

import logging
import ssl
from typing import Any

import gevent
import pytest

from geventpool import Pool
from geventpool._core import failures
from geventpool._core.failures import describe
from geventpool.testing import ScriptedConnector

SECRET = "s3cr3t-w0rd"


class RaisingText(Exception):
    """Its text must not be asked for."""

    def __str__(self) -> str:
        raise AssertionError("str() was called")


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def test_no_error_has_no_text() -> None:
    """The end of a chain."""
    assert describe(None) == ""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RaisingText(SECRET), "RaisingText"),
        (ValueError(), "ValueError"),
        (RuntimeError(1045, SECRET), "RuntimeError 1045"),
        (OSError(-2, SECRET), "OSError -2"),
        (ConnectionRefusedError(111, SECRET), "ConnectionRefusedError 111: "),
        (
            caused(RuntimeError(SECRET), ConnectionResetError(104, SECRET)),
            "RuntimeError from ConnectionResetError 104: ",
        ),
    ],
)
def test_classes_and_numbers_are_shown_and_messages_are_not(
    error: BaseException, text: str
) -> None:
    """A message may contain a password or a part of a statement."""
    assert describe(error).startswith(text) and SECRET not in describe(error)


def test_an_error_of_tls_is_named_by_its_constant() -> None:
    """The system's text for its number would mislead."""
    error = ssl.SSLError(1, "text")
    error.reason = "CERTIFICATE_VERIFY_FAILED"
    assert describe(error) == "SSLError 1: CERTIFICATE_VERIFY_FAILED"


def test_a_chain_is_bounded() -> None:
    """A chain of causes may be long, or a circle."""
    error = RuntimeError()
    error.__cause__ = error
    assert describe(error) == " from ".join(["RuntimeError"] * 3)


class Mistaken(ScriptedConnector):
    """Its methods have mistakes, or lose the connection."""

    error: Exception = AttributeError("no attribute")

    def ping(self, conn: Any) -> None:
        raise self.error

    close = reset = terminate = ping


@pytest.fixture
def fresh_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What is logged at any level, as if nothing had been reported before."""
    monkeypatch.setattr(failures, "reported", set())
    caplog.set_level(logging.DEBUG, "geventpool")
    return caplog


def levels(log: pytest.LogCaptureFixture) -> list[int]:
    return [record.levelno for record in log.records]


def test_a_mistake_in_a_connector_is_reported_once(
    fresh_log: pytest.LogCaptureFixture,
) -> None:
    """Each line of the program once, and not for each connection."""
    pool = Pool(Mistaken(), ping_after=0, max_connections=2)
    for _ in range(3):
        pool.release(pool.acquire())
        gevent.idle()
    assert levels(fresh_log).count(logging.WARNING) == 1
    assert "no attribute" in fresh_log.records[0].getMessage()
    assert fresh_log.records[0].exc_info
    pool.close()


@pytest.mark.parametrize("step", ["ping", "reset", "close", "terminate"])
def test_a_lost_connection_is_no_mistake(
    fresh_log: pytest.LogCaptureFixture, step: str
) -> None:
    """A server that hangs up is usual. It is told where debugging is wanted."""
    pool = Pool(Mistaken(), ping_after=0)
    Mistaken.error, before = ConnectionResetError(), Mistaken.error
    try:
        conn = pool.acquire()
        conn.needs_reset = step == "reset"
        if step == "terminate":
            pool.drop(conn)
        else:
            pool.release(conn)
        gevent.idle()
        if step == "ping":
            pool.release(pool.acquire())
        pool.close()
    finally:
        Mistaken.error = before
    assert set(levels(fresh_log)) == {logging.DEBUG}


def test_what_nobody_reads_is_not_made(caplog: pytest.LogCaptureFixture) -> None:
    """Connections are lost by thousands when a server goes away."""

    class Untold:
        def __repr__(self) -> str:
            raise AssertionError("was shown")

    caplog.set_level(logging.INFO, "geventpool")
    failures.log_connector_failure("was lost", Untold(), OSError())
    # An error that was never raised has no line.
    failures.log_connector_failure("was lost", Untold(), TypeError())
    assert not caplog.records
