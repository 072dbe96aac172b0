"""PyMySQL's tables of converters, with a note of whether they were changed."""

from __future__ import annotations

from typing import Any

__all__ = ["Converters"]


class Converters(dict[Any, Any]):
    """A dict that notes whether it was changed.

    Comparing two dicts would be the most expensive step at the end of every loan.
    """

    __slots__ = ("touched",)

    def __init__(self, pristine: dict[Any, Any]) -> None:
        super().__init__(pristine)
        self.touched = False


def _noting(name: str) -> Any:
    change = getattr(dict, name)

    def changed(self: Converters, *args: Any, **options: Any) -> Any:
        self.touched = True
        return change(self, *args, **options)

    changed.__name__ = name
    changed.__doc__ = change.__doc__
    return changed


for _name in (
    *("__setitem__", "__delitem__", "__ior__", "clear"),
    *("pop", "popitem", "setdefault", "update"),
):
    setattr(Converters, _name, _noting(_name))
