"""PyMySQL's tables of converters, which tell whether a borrower changed them."""

from __future__ import annotations

from typing import Any

__all__ = ["Converters"]


class Converters(dict[Any, Any]):
    """A dict that notes that it was changed, and never by what.

    Comparing two of them at the end of every loan would cost more than all the rest.
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
