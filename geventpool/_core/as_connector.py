"""Which connector a pool uses for what it was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from geventpool.connector import Connector
from geventpool.dbapi import DBAPIConnector, driver_of
from geventpool.factory import FactoryConnector, copied
from geventpool.policies import safe_repr

__all__ = ["as_connector"]

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
