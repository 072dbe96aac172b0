"""The facts of pools as plain values for JSON.

Nothing here waits, opens a connection or runs code of borrowers. Names of files and
functions are shown; arguments, addresses, keys and statements are not.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import Any

from geventpool import __version__
from geventpool.pool import Pool, pools

__all__ = ["core_of", "facts", "verdict"]

log = logging.getLogger("geventpool")

#: So many loans of a pool are described, the oldest.
LOANS = 50


def core_of(pool: Any) -> Pool[Any]:
    """The core pool of a pool of an adapter, or the pool itself.

    :raises TypeError: *pool* is no pool of this package.
    """
    core = getattr(pool, "core", pool)
    if not isinstance(core, Pool):
        raise TypeError(f"pools must be pools of geventpool, not {type(pool).__name__}")
    return core


def facts(chosen: Iterable[Pool[Any]] | None = None) -> dict[str, Any]:
    """The state of pools, as plain values.

    Never switches.

    :param chosen: the core pools; None: all open pools of the process.
    """
    described = [_described(pool) for pool in (pools() if chosen is None else chosen)]
    budgets = {}
    for each in described:
        if budget := each.get("stats", {}).get("budget"):
            budgets[budget["path"]] = budget
    return {
        "geventpool": __version__,
        "process": os.getpid(),
        "time": time.time(),
        "ready": all(each["ready"] for each in described),
        "pools": described,
        "budgets": [{**each, "own": None} for each in budgets.values()],
    }


def verdict(chosen: Iterable[Pool[Any]] | None = None) -> dict[str, str]:
    """The pools that are not ready, each with the reason; empty: all are ready.

    A pool without an idle connection is ready: if a process under load counted as not
    ready, its load would go to the others, which would follow. A pool that has given up
    looking for its server because nobody asks is ready: the next request tries it.

    Never switches.
    """
    reasons = {}
    for pool in pools() if chosen is None else chosen:
        reason = _reason(pool)
        if reason is not None:
            reasons[pool.name] = reason
    return reasons


def _reason(pool: Pool[Any]) -> str | None:
    if pool.closed:
        return "the pool is closed"
    # Not as long as the outage lasts: a pool that nobody asks gives up looking for its
    # server, and a process without requests would never become ready again.
    if pool.stats().paused:
        return "the server cannot be reached"
    return None


def _described(pool: Pool[Any]) -> dict[str, Any]:
    reason = _reason(pool)
    described: dict[str, Any] = {
        "name": pool.name,
        "kind": f"{type(pool).__module__}.{type(pool).__qualname__}",
        "ready": reason is None,
        "reason": reason,
    }
    try:
        described["stats"] = plain(pool.stats().as_dict())
        described["failure"] = plain(pool.failure())
        described["loans"] = plain(pool.loans(LOANS))
    except Exception:
        # Another thread's pool may change while it is read.
        log.exception("the state of pool %r could not be read", pool.name)
        described["error"] = "the state could not be read at this moment"
    return described


def plain(value: Any) -> Any:
    """A value made of what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        # JSON has no such numbers.
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return type(value).__name__
