"""A failure to open is told without anything secret."""

from __future__ import annotations

import ssl

import pytest

from geventpool._core.failures import describe

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
