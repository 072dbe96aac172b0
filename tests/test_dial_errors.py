"""Errors that are kept, and raised in several greenlets."""

from __future__ import annotations

import pytest

from geventpool.extension import copy_error


class Odd(Exception):
    """An error that cannot be copied: its arguments are not those it was made of."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """*error* after it was raised while another error was handled."""
    try:
        try:
            raise KeyError("of the program")
        except KeyError:
            if cause is None:
                raise error  # noqa: B904
            raise error from cause
    except type(error) as caught:
        return caught


def test_a_copy_has_no_frames() -> None:
    """One error for many would grow with each, and keep their local variables."""
    error = raised(ConnectionError(111, "refused"), raised(OSError(7, "inner")))
    copied = copy_error(error)
    assert copied is not error and copied.args == (111, "refused")
    cause = copied.__cause__
    assert isinstance(cause, OSError) and cause.args == (7, "inner")
    for each in copied, cause:
        assert each.__traceback__ is None and each.__context__ is None
    assert error.__traceback__ is not None


def test_a_copy_does_not_show_what_another_greenlet_handled() -> None:
    """It may be an error of another request."""
    assert copy_error(raised(ConnectionError())).__context__ is None


@pytest.mark.parametrize("cause", [None, Odd(1, 2)])
def test_an_error_that_cannot_be_copied_is_used_itself(cause: Exception | None) -> None:
    """Some drivers' errors want arguments that no copy has."""
    odd = raised(Odd(1, 2), cause)
    assert copy_error(odd) is odd and odd.__cause__ is cause
    error = raised(ValueError(), odd)
    assert copy_error(error).__cause__ is odd


def test_causes_that_are_a_circle_are_copied() -> None:
    """``raise error from error`` makes one; the event loop must not hang in it."""
    error = ValueError("one")
    cause = raised(ValueError("two"), error)
    error.__cause__ = cause
    copied = copy_error(error)
    assert isinstance(copied.__cause__, ValueError)
    assert copied.__cause__.args == ("two",)
