"""Reads the options of the pool from a project's settings.

It depends on settings and on the names of options, not on connections.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from geventpool.mysql import ConnectionPool
from geventpool.options import names, unknown
from geventpool.patching import STOCK, check_unpatched

__all__ = ["Settings", "check_age", "pool_options", "unpatched", "wants_pool"]

#: One of ``DATABASES``, as Django has completed it.
Settings = Mapping[str, Any]

#: The names that ``OPTIONS["pool"]`` may have. The server and the login are in Django's
#: own settings.
NAMES = names() | set(inspect.getfullargspec(ConnectionPool.__init__).kwonlyargs)

#: The kinds of reset. None is missing, because closing must end a transaction.
RESETS = ("needed", "session", "rollback")

#: With ``CONN_HEALTH_CHECKS``, a connection that was idle for so many seconds is pinged
#: before it is lent. Whether its socket is open and has nothing to read is checked each
#: time.
PING_AFTER = 30.0


def wants_pool(settings: Settings) -> bool:
    """Whether the settings want a pool. ``{}`` is a pool with defaults."""
    given = settings["OPTIONS"].get("pool")
    return given is not None and given is not False


def pool_options(alias: str, settings: Settings) -> dict[str, Any]:
    """Return the options of the pool for database *alias*.

    :raises ImproperlyConfigured: an option is unknown, or Django cannot work with its
        value.
    """
    given = settings["OPTIONS"]["pool"]
    where = f"DATABASES[{alias!r}]['OPTIONS']['pool']"
    if given is True:
        given = {}
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(
            f"{where} must be True, False or a dict of options, not {given!r}"
        )
    for name in given:
        if name not in NAMES:
            raise ImproperlyConfigured(unknown(where, name, NAMES))
    reset = given.get("reset", RESETS[0])
    if reset not in RESETS and not callable(reset):
        raise ImproperlyConfigured(
            f"{where}: reset must be one of {RESETS}, or a callable, not {reset!r}"
        )
    options = {"name": f"django {alias}", **given}
    if settings["CONN_HEALTH_CHECKS"]:
        options.setdefault("ping_after", PING_AFTER)
    return options


def unpatched(alias: str, settings: Settings) -> str:
    """Return what to do in a process that gevent has not patched.

    :raises ImproperlyConfigured: the settings are invalid.
    """
    try:
        return check_unpatched(pool_options(alias, settings).get("unpatched", STOCK))
    except ValueError as error:
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]['OPTIONS']['pool']: {error}"
        ) from error


def check_age(alias: str, settings: Settings) -> None:
    """Check that Django itself does not keep connections.

    :raises ImproperlyConfigured: ``CONN_MAX_AGE`` is not 0.
    """
    age = settings["CONN_MAX_AGE"]
    if age != 0:
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]['CONN_MAX_AGE'] must be 0 with OPTIONS['pool'], "
            f"not {age!r}: it is the pool that keeps connections, and its "
            "'max_lifetime' that says how old they get"
        )
