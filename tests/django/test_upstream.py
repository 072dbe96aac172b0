"""Django's own backend, on PyMySQL."""

from __future__ import annotations

import sys
from types import ModuleType

import pymysql

from geventpool.django.mysql import upstream


def test_a_mysqlclient_stays_what_it_is(monkeypatch):
    """Every importer finds it, before and after."""
    for name in ("MySQLdb", "MySQLdb.constants"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    theirs = sys.modules["MySQLdb"]
    monkeypatch.delitem(sys.modules, "MySQLdb.converters", raising=False)
    loaded = upstream._load()
    assert sys.modules["MySQLdb"] is theirs
    assert "MySQLdb.converters" not in sys.modules
    assert loaded.Database.Error is pymysql.Error
    assert loaded.DatabaseWrapper is not upstream.base.DatabaseWrapper
