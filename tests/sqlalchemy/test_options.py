"""The options are those of the core, under the names that SQLAlchemy has for them."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_type_hints

import pytest
from sqlalchemy import create_engine

from geventpool.options import PoolOptions
from geventpool.sqlalchemy import GreenletPool

#: What SQLAlchemy calls otherwise, or has no use for: records are made without waiting,
#: and any greenlet may give them back.
ELSEWHERE = {
    "backoff",
    "handoff",
    "initial_connections",
    "lifo",
    "max_connecting",
    "max_connections",
    "name",
    "owner_only",
    "reap_expired_connections",
}


@pytest.mark.parametrize("name", sorted({f.name for f in fields(PoolOptions)}))
def test_an_option_is_that_of_the_core(name):
    """The same type and default; create_engine() needs them written out."""
    own = inspect.signature(GreenletPool).parameters
    if name in ELSEWHERE:
        assert name not in own
        return
    (each,) = (each for each in fields(PoolOptions) if each.name == name)
    assert own[name].default == each.default
    types = get_type_hints(GreenletPool.__init__)
    assert types[name] == get_type_hints(PoolOptions)[name]


def test_a_name_that_is_no_option_is_refused():
    """In the words of all pools; create_engine() has its own."""
    message = r"GreenletPool\(\) has no option 'max_idel'; did you mean 'max_idle'\?"
    with pytest.raises(TypeError, match=message):
        GreenletPool(lambda: None, max_idel=3)
    with pytest.raises(TypeError, match="max_idel"):
        create_engine("sqlite://", poolclass=GreenletPool, max_idel=3)
