"""Shows the options of a pool in the docstring and signature of what takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from geventpool.options import PoolOptions

__all__ = ["described", "documented"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", bound=type)


def described(kind: type[PoolOptions], *without: str) -> Callable[[T], T]:
    """Add the options to the docstring of a class, as its parameters.

    :param kind: the class of the options.
    :param without: the names of options that the class does not take.
    """

    def decorate(target: T) -> T:
        lines = [
            "    :param {}: {rule}: {meaning}.".format(each.name, **each.metadata)
            for each in fields(kind)
            if each.name not in without
        ]
        # There is no docstring under python -OO.
        before, colon, after = (target.__doc__ or "").partition("    :raises ")
        target.__doc__ = before + "\n".join(lines) + "\n" + colon + after
        return target

    return decorate


def documented(
    kind: type[PoolOptions], others: bool = False, **defaults: Any
) -> Callable[[F], F]:
    """Show the options in the signature of a function that takes them as ``**``.

    :param kind: the class of the options.
    :param others: the function takes other keywords too.
    :param defaults: those that differ from the defaults of *kind*.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        *before, rest = signature.parameters.values()
        taken = {each.name for each in before}
        after = [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(each.name, each.default),
                annotation=each.type,
            )
            for each in fields(kind)
            if each.name not in taken
        ]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*before, *after, *([rest] if others else [])]
        )
        return function

    return decorate
