"""The pool of the records that SQLAlchemy makes."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine

from geventpool.sqlalchemy import GreenletPool, record_pool
from geventpool.sqlalchemy.records import Record
from tests.sqlalchemy.conftest import core
from tests.sqlalchemy.test_engine import in_child, use


def test_what_has_no_socket_is_left_alone_in_a_child(tmp_path):
    """SQLite must not be closed there, and a descriptor is cut off."""
    engine = create_engine(
        f"sqlite:///{tmp_path}/file.db", poolclass=GreenletPool, pool_size=1
    )
    assert use(engine) == 1
    assert in_child(lambda: use(engine, "SELECT 5")) == "5"
    (record,) = core(engine).idle_connections()
    record_pool.disown(record.dbapi_connection)
    assert record_pool._inherited.pop() is record.dbapi_connection
    assert use(engine, "SELECT 6") == 6
    engine.dispose()


@pytest.mark.parametrize("hides", [False, True])
def test_in_a_child_connections_are_disowned(make_pool, monkeypatch, hides):
    """The socket is closed; or the descriptor leads nowhere, and it is kept."""
    kept: list[Any] = []
    monkeypatch.setattr(record_pool, "_inherited", kept)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connector = record_pool.RecordConnector(make_pool())
        connector._process = -1
        record = Record(make_pool(), connect=False)
        inner: Any = SimpleNamespace(fileno=ours.fileno)
        if not hides:
            inner.sock = ours
        record.dbapi_connection = inner
        connector.terminate(record)
        assert kept == ([inner] if hides else [])
        assert record.dbapi_connection is None and theirs.recv(1) == b""
