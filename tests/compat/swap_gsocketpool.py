"""Runs gsocketpool's own tests, with it or with geventpool in its place.

Executed by path, in gsocketpool's source folder, by ``gsocketpool_suite.py``. The
environment variable ``POOLS`` says which, ``OUTCOMES`` names the file to write: one
line of JSON for each test. What the tests use of nose and mock, which do not run on
Python of today, is made here.
"""

from __future__ import annotations

import functools
import os
import sys
from types import ModuleType
from unittest import mock

import pytest

# Not by its full name: gsocketpool has a package "tests" of its own.
from recording import Plugin

#: By the module of gsocketpool, the names of ours that it has.
NAMES = {
    "gsocketpool": ("Connection", "Pool", "TcpConnection"),
    "gsocketpool.connection": ("Connection", "TcpConnection"),
    "gsocketpool.pool": ("ConnectionNotFoundError", "Pool", "PoolExhaustedError"),
}


def module(name, **attributes):
    """Make a module that can be imported by that name."""
    made = sys.modules[name] = ModuleType(name)
    made.__dict__.update(attributes)
    return made


def raises(*errors):
    """As nose has it: a decorator of tests that end with one of these errors."""

    def decorate(test):
        @functools.wraps(test)
        def run(*args):
            with pytest.raises(errors):
                test(*args)

        return run

    return decorate


def eq_(one, other):
    assert one == other


def ok_(value):
    assert value


class NoReaper:
    """gsocketpool's is a class of its own; here there is none."""

    def __init__(self, *args):
        pytest.fail("there is no ConnectionReaper")


def put_ours_in_place():
    """Let everybody who imports gsocketpool get geventpool."""
    import geventpool

    class Pool(geventpool.Pool):
        """Waits for as long as gsocketpool does, and shows what its tests look at."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, timeout=1, **kwargs)

        _pool = property(geventpool.Pool.idle_connections)
        _using = property(geventpool.Pool.lent_connections)

    ours = {**vars(geventpool), "Pool": Pool}
    for name, names in NAMES.items():
        module(name, **{each: ours[each] for each in names})
    sys.modules["gsocketpool.pool"].ConnectionReaper = NoReaper  # type: ignore[attr-defined]
    for name in "connection", "pool":
        setattr(sys.modules["gsocketpool"], name, sys.modules[f"gsocketpool.{name}"])


if __name__ == "__main__":
    module("nose")
    module("nose.tools", eq_=eq_, ok_=ok_, raises=raises)
    sys.modules["mock"] = mock
    if os.environ["POOLS"] != "stock":
        put_ours_in_place()
    # The folder of this file must not hide anything from the tests.
    sys.path[0] = os.getcwd()
    sys.exit(pytest.main(sys.argv[1:], plugins=[Plugin(os.environ["OUTCOMES"])]))
