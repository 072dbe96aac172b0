"""The keywords of ``geventpool.mysql.ConnectionPool`` for type checkers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ssl import SSLContext
from typing import Any, TypedDict

from pymysql.cursors import Cursor

from geventpool.options import AdapterKeywords

__all__ = ["ConnectKeywords", "MySQLKeywords"]


class ConnectKeywords(TypedDict, total=False):
    """What ``pymysql.connect`` takes; ``user`` and ``password`` also as callables."""

    user: str | bytes | Callable[[], str | bytes] | None
    password: str | bytes | Callable[[], str | bytes] | None
    host: str | None
    database: str | bytes | None
    unix_socket: str | None
    port: int
    charset: str
    collation: str | None
    sql_mode: str | None
    read_default_file: str | None
    read_default_group: str | None
    conv: Mapping[Any, Any] | None
    use_unicode: bool
    client_flag: int
    cursorclass: type[Cursor]
    init_command: str | None
    connect_timeout: float
    read_timeout: float | None
    write_timeout: float | None
    autocommit: bool | None
    local_infile: bool
    max_allowed_packet: int
    auth_plugin_map: Mapping[Any, Any] | None
    bind_address: str | None
    binary_prefix: bool
    program_name: str | None
    server_public_key: bytes | None
    ssl: SSLContext | Mapping[str, Any] | None
    ssl_ca: str | None
    ssl_cert: str | None
    ssl_disabled: bool | None
    ssl_key: str | None
    ssl_key_password: str | bytes | None
    ssl_verify_cert: bool | None
    ssl_verify_identity: bool | None
    compress: None
    named_pipe: None
    #: old names of *password* and *database*
    passwd: str | bytes | None
    db: str | bytes | None


class MySQLKeywords(AdapterKeywords, ConnectKeywords, total=False):
    """What the pool takes beside its own parameters: its options and PyMySQL's."""
