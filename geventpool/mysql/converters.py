"""PyMySQL's tables of converters, with a note of whether they were changed."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from geventpool.mysql.results import Columns

__all__ = ["Converters"]

#: The caches in use, by the types and the ids of the converters in their tables.
#: Connections have the same ones.
_caches: WeakValueDictionary[frozenset[Any], Columns] = WeakValueDictionary()


class Converters(dict[Any, Any]):
    """A dict that notes whether it was changed.

    Comparing two dicts would be the most expensive step at the end of every loan.
    """

    __slots__ = ("touched", "columns")

    def __init__(self, pristine: dict[Any, Any]) -> None:
        super().__init__(pristine)
        self.touched = False
        #: the columns that were parsed with this table; None: it was changed
        self.columns: Columns | None = _cache_of(pristine)


def _cache_of(table: dict[Any, Any]) -> Columns:
    # By identity, because equal converters may return different values. The numbers are
    # valid as long as the cache is used: the tables that use it hold the converters.
    items = [(kind, id(converter)) for kind, converter in table.items()]
    return _caches.setdefault(frozenset(items), Columns())


def _noting(name: str) -> Any:
    change = getattr(dict, name)

    def changed(self: Converters, *args: Any, **options: Any) -> Any:
        self.touched = True
        self.columns = None
        return change(self, *args, **options)

    changed.__name__ = name
    changed.__doc__ = change.__doc__
    return changed


for _name in (
    *("__setitem__", "__delitem__", "__ior__", "clear"),
    *("pop", "popitem", "setdefault", "update"),
):
    setattr(Converters, _name, _noting(_name))
