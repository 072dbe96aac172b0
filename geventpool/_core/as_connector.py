"""Which connector a pool uses for what it was given."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from inspect import signature
from typing import Any, TypeVar

from geventpool.connector import Connector
from geventpool.dbapi import DBAPIConnector, driver_of
from geventpool.factory import FactoryConnector, copied
from geventpool.options import names
from geventpool.policies import safe_repr

__all__ = ["as_connector", "refuse_arguments"]

C = TypeVar("C")

#: Methods that ``Connector.classify`` has replaced, and what it returns instead.
_REPLACED = {
    "survives": "KEEP",
    "condemns": "DRAIN",
    "is_disconnect": "DISCONNECT",
    "is_exhausted": "BACK_OFF",
}


def as_connector(
    factory: Connector[C] | Callable[..., C], options: Mapping[str, Any] | None = None
) -> Connector[C]:
    """Return *factory* if it is a connector, or else a connector for it.

    :param factory: a :class:`~geventpool.Connector`; a function of a DB-API driver, for
        :class:`~geventpool.DBAPIConnector`; or another callable, for
        :class:`~geventpool.FactoryConnector`.
    :param options: the arguments of the callable.
    :raises TypeError: options were given for a connector; it defines a method that
        :meth:`~geventpool.Connector.classify` has replaced; or see
        :class:`~geventpool.FactoryConnector`.
    """
    if not isinstance(factory, Connector):
        if driver_of(factory) is not None:
            return DBAPIConnector(factory, options)
        return FactoryConnector(factory, options)
    for name, action in _REPLACED.items():
        if hasattr(type(factory), name):
            raise TypeError(
                f"{safe_repr(factory)} must not define {name}(), which no pool calls: "
                f"return ErrorAction.{action} from classify()"
            )
    if copied(options):
        raise TypeError(
            f"options are for a factory; {factory!r} is a Connector and takes none, "
            f"but was given {sorted(options or ())}"
        )
    return factory


def refuse_arguments(owner: str, factory: Any, given: Iterable[str]) -> None:
    """Refuse arguments of a factory that were given to its pool.

    :param owner: what they were given to, for the message: ``"Pool()"``.
    :raises TypeError: a name is no option, and the factory has an argument of it.
    """
    if isinstance(factory, Connector):
        return
    for name in given:
        if name not in names() and name in _arguments(factory):
            raise TypeError(
                f"{owner} has no option {name!r}; give the arguments of the factory in "
                f"a dict: {owner[:-1]}factory, dict({name}=...))"
            )


def _arguments(factory: Callable[..., Any]) -> Container[str]:
    try:
        return signature(factory).parameters
    except (TypeError, ValueError):
        # A function in C may have no signature.
        return ()
