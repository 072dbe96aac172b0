"""Django's own MySQL backend, on PyMySQL.

Django's module imports ``MySQLdb`` and refuses an old version. It is executed here a
second time, with PyMySQL in the place of ``MySQLdb`` during the import. A mysqlclient
that other databases of the project use is not changed, and no other code finds PyMySQL
under that name.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pymysql
from pymysql import constants, converters

__all__ = ["base"]

_NAME = "django.db.backends.mysql.base"

#: A version that passes Django's check of mysqlclient, which is not used here.
_VERSION = (99, 0, 0, "final", 0)


def _mysqldb() -> dict[str, ModuleType]:
    """Return PyMySQL under the names that Django imports.

    The submodules are the same objects, so no second copies of the errors exist.
    """
    module = ModuleType("MySQLdb")
    module.__dict__.update(
        {name: getattr(pymysql, name) for name in pymysql.__all__},
        constants=constants,
        converters=converters,
        version_info=_VERSION,
        __path__=[],
    )
    return {
        "MySQLdb": module,
        "MySQLdb.constants": constants,
        "MySQLdb.converters": converters,
    }


@contextmanager
def _in_place_of(modules: dict[str, ModuleType]) -> Iterator[None]:
    """Make imports find *modules* within the block."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _load() -> Any:
    spec = importlib.util.find_spec(_NAME)
    assert spec is not None and spec.loader is not None, f"Django has no {_NAME}"
    module = importlib.util.module_from_spec(spec)
    with _in_place_of(_mysqldb()):
        spec.loader.exec_module(module)
    return module


#: ``django.db.backends.mysql.base``, with PyMySQL as its driver.
base: Any = _load()
