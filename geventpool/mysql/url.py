"""Parses ``mysql://user:password@host:port/database?charset=utf8mb4``.

It has the names of PyMySQL's arguments that can be written in a URL, and their types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

from pymysql import cursors

from geventpool.mysql.hosts import Host, split_host
from geventpool.options import from_text, names, unknown
from geventpool.patching import check_unpatched
from geventpool.policies import safe_repr

__all__ = ["parse_server_url", "parse_url"]

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


#: The options of a pool. They are no arguments of ``pymysql.connect``.
_POOL_ARGUMENTS = names() | {"unpatched"}

#: The arguments that may follow the question mark. Others cannot be written as text.
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
            *("cancel", "local_infile", "use_unicode", "ssl_disabled"),
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
    "unpatched": check_unpatched,
}


def parse_url(url: str) -> dict[str, Any]:
    """Parse a URL into keyword arguments.

    User, password, database and the values after the question mark may be
    percent-encoded. Several hosts are separated by commas:
    ``mysql://user@db1,db2:3307/shop``.

    :param url: its scheme is ``mysql`` or ``mysql+pymysql`` (or ``mariadb``...).
    :return: arguments of ``pymysql.connect``; ``hosts`` if there are several; and those
        options of a pool that are a string, a number or a bool.
    :raises TypeError: *url* is no string.
    :raises ValueError: the URL is invalid. The message does not show the password.
    """
    if not isinstance(url, str):
        # The value is not shown, because it may be a URL in bytes with a password.
        raise TypeError(f"url must be a string, not of the type {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        # Without a scheme, the text may be an account.
        shows = separator and scheme.replace("+", "").isalnum()
        said = f": {safe_repr(scheme)}" if shows else ""
        raise ValueError(f"url must begin with mysql:// or mysql+pymysql://{said}")
    rest, _, fragment = rest.partition("#")
    if fragment:
        raise ValueError("url has a '#': write it as %23")
    place, _, query = rest.partition("?")
    where, _, database = place.partition("/")
    account, _, hosts = where.rpartition("@")
    try:
        options = _account(account)
        options.update(_address(hosts))
        if database:
            options["database"] = _decoded("database", database)
        options.update(_query(query))
    except ValueError:
        # A '/' or '?' in the password may have cut it in two, so that its parts were
        # read as other parts of the URL. None of them is shown.
        if "@" in rest[len(where) :]:
            raise ValueError(
                "url can't be read, and has an '@' behind a '/' or '?': write these in "
                "user and password as %2F and %3F, an '@' elsewhere as %40"
            ) from None
        raise
    return options


def parse_server_url(url: str, remedy: str) -> dict[str, Any]:
    """Parse a URL where options of a pool would have no effect.

    :param remedy: what to do instead of giving an option there.
    :raises TypeError: as for :func:`parse_url`.
    :raises ValueError: so, or the URL has an option of a pool.
    """
    options = parse_url(url)
    for name in sorted(_POOL_ARGUMENTS & options.keys()):
        raise ValueError(f"url must not have the option {name} of a pool: {remedy}")
    return options


def _decoded(name: str, text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(
            f"url has a {name} whose percent-encoding is not UTF-8"
        ) from None


def _account(text: str) -> dict[str, Any]:
    user, colon, password = text.partition(":")
    options = {}
    if user:
        options["user"] = _decoded("user", user)
    if colon:
        options["password"] = _decoded("password", password)
    return options


def _host(text: str) -> Host:
    try:
        return split_host(_decoded("host", text))
    except ValueError as error:
        # "user:password" without a host is read as a host with a port.
        name, colon, port = text.rpartition(":")
        if colon and not port.isdecimal():
            raise ValueError(
                f"url has {safe_repr(name)} as a host, but no port from 1 to 65535 "
                "after it"
            ) from None
        raise error from None


def _address(text: str) -> dict[str, Any]:
    if not text:
        return {}
    hosts = [_host(each) for each in text.split(",")]
    if len(hosts) > 1:
        return {"hosts": hosts}
    return {"host": hosts[0].name, "port": hosts[0].port}


def _query(text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in _arguments(text):
        if name not in _ARGUMENTS.keys() | _POOL_ARGUMENTS:
            raise ValueError(unknown("url", name, _ARGUMENTS.keys() | _POOL_ARGUMENTS))
        if name in options:
            raise ValueError(f"url has the argument {name!r} twice")
        if name not in _ARGUMENTS:
            options[name] = from_text(name, value)
            continue
        try:
            options[name] = _ARGUMENTS[name](value)
        except ValueError as error:
            raise ValueError(
                f"url argument {name}={safe_repr(value)}: {error}"
            ) from None
    return options


def _arguments(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(
            "url has an argument whose percent-encoding is not UTF-8"
        ) from None
