"""
``mysql://user:password@host:port/database?charset=utf8mb4`` as keyword arguments.

Knows which of PyMySQL's arguments can be written in a URL, and as what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

from pymysql import cursors

from geventpool.mysql.hosts import split_host

__all__ = ["parse_url"]

SCHEMES = ("mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql")

_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True}
_BOOLEANS |= {"0": False, "false": False, "no": False, "off": False}


def _boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError(f"must be one of {', '.join(_BOOLEANS)}") from None


def _optional_boolean(text: str) -> bool | None:
    return None if text.lower() in ("", "none") else _boolean(text)


def _cursorclass(text: str) -> type[cursors.Cursor]:
    known = {
        name: kind
        for name, kind in vars(cursors).items()
        if isinstance(kind, type) and issubclass(kind, cursors.Cursor)
    }
    if text not in known:
        raise ValueError(f"must be one of {', '.join(sorted(known))}")
    return known[text]


#: What may stand behind the question mark; all else can't be written as text.
_ARGUMENTS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(
        (
            *("bind_address", "charset", "collation", "init_command", "program_name"),
            *("read_default_file", "read_default_group", "sql_mode", "unix_socket"),
            *("ssl_ca", "ssl_cert", "ssl_key", "ssl_key_password"),
        ),
        str,
    ),
    **dict.fromkeys(
        (
            *("local_infile", "use_unicode", "ssl_disabled"),
            *("ssl_verify_cert", "ssl_verify_identity"),
        ),
        _boolean,
    ),
    **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), float),
    **dict.fromkeys(("client_flag", "max_allowed_packet"), int),
    "autocommit": _optional_boolean,
    "cursorclass": _cursorclass,
    "host_order": str,
    "target": str,
}


def parse_url(url: str) -> dict[str, Any]:
    """
    The keyword arguments that a URL stands for.

    User, password, database and the values behind the question mark may be
    percent-encoded. Several hosts are separated by commas:
    ``mysql://user@db1,db2:3307/shop``.

    :param url: its scheme is ``mysql`` or ``mysql+pymysql`` (or ``mariadb``...).
    :return: arguments of ``pymysql.connect``; and ``hosts``, where there are several.
    :raises TypeError: *url* is no string.
    :raises ValueError: what is wrong with it; the password is not in the message.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a string, not {url!r}")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(
            f"url must begin with mysql:// or mysql+pymysql://: {scheme!r}"
        )
    rest, _, fragment = rest.partition("#")
    if fragment:
        raise ValueError("url has a '#': write it as %23")
    place, _, query = rest.partition("?")
    where, _, database = place.partition("/")
    account, _, hosts = where.rpartition("@")
    options = _account(account)
    options.update(_address(hosts))
    if database:
        options["database"] = unquote(database)
    options.update(_query(query))
    return options


def _account(text: str) -> dict[str, Any]:
    user, colon, password = text.partition(":")
    options = {}
    if user:
        options["user"] = unquote(user)
    if colon:
        options["password"] = unquote(password)
    return options


def _address(text: str) -> dict[str, Any]:
    if not text:
        return {}
    hosts = [split_host(unquote(each)) for each in text.split(",")]
    if len(hosts) > 1:
        return {"hosts": hosts}
    return {"host": hosts[0].name, "port": hosts[0].port}


def _query(text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in _ARGUMENTS:
            raise ValueError(f"url has an unknown argument: {name!r}")
        if name in options:
            raise ValueError(f"url has the argument {name!r} twice")
        try:
            options[name] = _ARGUMENTS[name](value)
        except ValueError as error:
            raise ValueError(f"url argument {name}={value!r}: {error}") from None
    return options
