"""Makes redis-py wait cooperatively where ``monkey.patch_all()`` did not reach it.

redis-py keeps a few names of the standard library in its own modules. A name bound by
``from time import sleep`` stays native if redis was imported before patching. A module
bound by ``import select`` stays native if that module is not patched at all. Each such
name is set to gevent's own object, so a program may import redis first, or patch less
than everything.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import gevent
import gevent.select
import gevent.time
from gevent import monkey

from geventpool.patching import is_patched, warn_once

__all__ = ["make_cooperative"]


class Name(NamedTuple):
    """A name in redis-py that may be bound to an object that blocks the event loop."""

    module: str
    name: str
    #: the part of the standard library, as an argument of ``monkey.patch_all()``
    part: str
    cooperative: Any


#: The names in redis-py 6.4 to 8.1. Each version has some of them.
NAMES = (
    Name("redis.retry", "sleep", "time", gevent.sleep),
    Name("redis.auth.token_manager", "sleep", "time", gevent.sleep),
    Name("redis.client", "time", "time", gevent.time),
    Name("redis.cluster", "time", "time", gevent.time),
    Name("redis.keyspace_notifications", "time", "time", gevent.time),
    Name("redis.lock", "mod_time", "time", gevent.time),
    Name("redis._parsers.hiredis", "select", "select", gevent.select),
)


def make_cooperative() -> None:
    """Set the names that would block the event loop, and warn about it once.

    Never switches. Does nothing in a process that was patched before redis was
    imported.
    """
    found = list(_native_names())
    if not found:
        return
    for each in found:
        setattr(sys.modules[each.module], each.name, each.cooperative)
    late = all(is_patched(each.part) for each in found)
    parts = ", ".join(sorted({each.part for each in found}))
    reason = (
        "redis was imported before gevent.monkey.patch_all()"
        if late
        else f"gevent has not patched {parts}"
    )
    names = ", ".join(f"{each.module}.{each.name}" for each in found)
    warn_once(
        "geventpool.redis",
        f"{reason}: geventpool.redis has replaced {names} by what gevent has for it, "
        "because redis-py would block the event loop there. Patch everything before "
        "all other imports to be free of this warning.",
    )


def _native_names() -> Iterator[Name]:
    for each in NAMES:
        bound = vars(sys.modules.get(each.module, object)).get(each.name)
        if isinstance(bound, ModuleType):
            if bound is not each.cooperative and not is_patched(each.part):
                yield each
        elif bound is not None and bound is monkey.get_original("time", "sleep"):
            yield each
