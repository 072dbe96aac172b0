"""The tree of refusals."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest

import geventpool
from geventpool import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]


def drawn_tree():
    """Child to parent, as the drawing in the module's docstring has them."""
    parents = {}
    column_to_name: dict[Any, Any] = {}
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([ |+`-]*)(\w+Error)(?:\((\w+)\))?  ", line)
        if match:
            column, name = len(match[1]), match[2]
            above = [c for c in column_to_name if c < column]
            parents[name] = match[3] or column_to_name[max(above)]
            column_to_name = {c: n for c, n in column_to_name.items() if c < column}
            column_to_name[column] = name
    return parents


def test_the_tree_is_as_drawn():
    """The drawing in the docstring shows every class under its base."""
    assert drawn_tree() == {
        kind.__name__: base.__name__ for kind in CLASSES for base in kind.__bases__
    }


def test_every_refusal_is_listed():
    """No class of the module is missing from what it exports, nor from geventpool."""
    defined = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ in ("geventpool", errors.__name__)
    }
    assert defined == set(errors.__all__) <= set(geventpool.__all__)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_refusal_is_no_network_error(kind):
    """Code that retries on OSError does not retry on a refusal."""
    assert issubclass(kind, errors.PoolError)
    assert not issubclass(kind, OSError)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    "copied",
    [lambda error: pickle.loads(pickle.dumps(error)), copy.copy],
    ids=["pickle", "copy"],
)
def test_a_refusal_can_be_sent_to_another_process(kind, copied):
    """Pickling and copying keep the class and the message."""
    twin = copied(kind("Pool 'redis' exhausted"))
    assert type(twin) is kind
    assert str(twin) == "Pool 'redis' exhausted"


@pytest.mark.parametrize("kind", CLASSES)
def test_a_refusal_explains_itself(kind):
    """Every class has a docstring of its own."""
    assert kind.__doc__ and kind.__doc__ not in {
        base.__doc__ for base in kind.__mro__[1:]
    }
