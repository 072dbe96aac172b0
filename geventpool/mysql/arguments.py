"""Checks the arguments of ``pymysql.connect`` when the pool is made.

PyMySQL checks them when it connects, which happens later and in a greenlet of the pool.
It accepts some bad values, such as a timeout of NaN seconds, which would stop every
timer of the process. No message shows a password.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pymysql.charset import charset_by_name
from pymysql.connections import Connection

from geventpool.mysql.hosts import MAX_PORT, is_name
from geventpool.options import refuse_unknown
from geventpool.policies import (
    check_int,
    check_optional_int,
    check_optional_seconds,
    safe_repr,
)

__all__ = ["KEYWORDS", "check_account", "check_password", "checked", "merged"]

#: The parameters of PyMySQL's connection class.
KEYWORDS = frozenset(inspect.signature(Connection.__init__).parameters) - {
    "self",
    "defer_connect",
}
#: Old names of arguments. PyMySQL 1.2 warns about them.
_ALIASES: dict[str, str] = {"db": "database", "passwd": "password"}

#: The longest ``connect_timeout`` that PyMySQL accepts: a year.
_LONGEST = 31536000


def checked(options: Any) -> dict[str, Any]:
    """Check the options, and rename those with old names.

    :return: the options under the names that PyMySQL prefers.
    :raises TypeError: PyMySQL has no such argument, or one is of the wrong type.
    :raises ValueError: an argument is out of its range, or given under two names.
    """
    if not isinstance(options, Mapping):
        # The value is not shown, because it may be a URL in bytes with a password.
        kind = type(options).__name__
        raise TypeError(f"options must be a dict or a URL, not of the type {kind}")
    refuse_unknown("pymysql.connect()", options, KEYWORDS)
    for old, new in _ALIASES.items():
        if old in options and new in options:
            raise ValueError(f"give {new} or {old}, not both")
    given: Mapping[str, Any] = options
    found = {_ALIASES.get(name, name): value for name, value in given.items()}
    for name, value in found.items():
        rule = _RULES.get(name)
        if rule is not None:
            rule(name, value)
    return found


def merged(
    url: Mapping[str, Any], options: Mapping[str, Any], **servers: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merge the options of a URL with keywords, which take precedence.

    This holds for a keyword with an old name as well.

    :param options: the keywords of ``pymysql.connect``.
    :param servers: further keywords, such as ``hosts`` and ``target``; a value of None:
        take what the URL has.
    :return: *options* and *servers*, each merged with the URL.
    """
    said = {_ALIASES.get(name, name) for name in options} | servers.keys()
    unsaid = {name: value for name, value in url.items() if name not in said}
    found = {
        name: url.get(name) if value is None else value
        for name, value in servers.items()
    }
    return {**unsaid, **options}, found


def check_account(name: str, value: Any) -> None:
    """Refuse a user name that cannot be sent unchanged.

    :raises TypeError: neither text nor a callable.
    :raises ValueError: it contains a null byte, or cannot be encoded.
    """
    if not callable(value):
        _text(name, value)


def check_password(name: str, value: Any) -> None:
    """Refuse a password that PyMySQL cannot send. No message shows it.

    :raises TypeError: neither text nor bytes.
    :raises ValueError: text with characters beyond Latin-1.
    """
    if value is None or callable(value):
        return
    if not isinstance(value, (str, bytes, bytearray)):
        kind = type(value).__name__
        raise TypeError(f"{name} must be a string or bytes, not of the type {kind}")
    if isinstance(value, str) and any(ord(char) > 255 for char in value):
        raise ValueError(
            f"{name} has characters beyond Latin-1, which PyMySQL does not send: "
            "give it as the bytes the server knows"
        )


def _text(name: str, value: Any) -> None:
    """Refuse what is no text, and text with null bytes."""
    if value is None:
        return
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a string or None, not {safe_repr(value)}")
    try:
        data = value.encode() if isinstance(value, str) else value
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be text, not {safe_repr(value)}") from None
    # For the protocol and for the system, a null byte ends the text.
    if b"\0" in data:
        raise ValueError(f"{name} must not contain a null byte: {safe_repr(value)}")


def _host(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be a string or None, not {safe_repr(value)}")
    # Without a name PyMySQL connects to localhost.
    if value and not is_name(value):
        raise ValueError(f"{name} must be a host's name, not {safe_repr(value)}")


def _port(name: str, value: Any) -> None:
    # PyMySQL takes 0 for 3306.
    if (check_optional_int(name, value) or 0) > MAX_PORT:
        raise ValueError(f"{name} must be at most {MAX_PORT}, not {safe_repr(value)}")


def _integer(name: str, value: Any) -> None:
    check_int(name, value)


def _optional_timeout(name: str, value: Any) -> None:
    if check_optional_seconds(name, value) == 0:
        raise ValueError(f"{name} must be above 0 seconds, or None, not {value!r}")


def _connect_timeout(name: str, value: Any) -> None:
    rule = f"a number of seconds above 0 and at most {_LONGEST}, not {safe_repr(value)}"
    span = check_optional_seconds(name, value)
    if span is None:
        raise TypeError(f"{name} must be {rule}")
    if not 0 < span <= _LONGEST:
        raise ValueError(f"{name} must be {rule}")


def _charset(name: str, value: Any) -> None:
    _text(name, value)
    if value and charset_by_name(value) is None:
        raise ValueError(
            f"{name} must be one that PyMySQL knows, not {safe_repr(value)}"
        )


def _cursorclass(name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be a class of cursors, not {safe_repr(value)}")


def _unsupported(name: str, value: Any) -> None:
    if value:
        raise ValueError(f"{name} is not supported by PyMySQL: {safe_repr(value)}")


_RULES: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(
        (
            *("bind_address", "collation", "database", "init_command", "program_name"),
            *("read_default_file", "read_default_group", "sql_mode", "unix_socket"),
        ),
        _text,
    ),
    **dict.fromkeys(("password", "ssl_key_password"), check_password),
    **dict.fromkeys(("read_timeout", "write_timeout"), _optional_timeout),
    **dict.fromkeys(("client_flag", "max_allowed_packet"), _integer),
    **dict.fromkeys(("compress", "named_pipe"), _unsupported),
    "charset": _charset,
    "connect_timeout": _connect_timeout,
    "cursorclass": _cursorclass,
    "host": _host,
    "port": _port,
    "user": check_account,
}
